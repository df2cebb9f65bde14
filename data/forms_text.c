/* Rows of plain text: text, completion, alpaca, and files whose rows are mapped by Jinja templates. */
#include <string.h>

#include "base/error.h"
#include "data/forms.h"

/* The prompt form published with Stanford Alpaca (stanford_alpaca, train.py: PROMPT_DICT). */
static const char alpaca_with_input[] =
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n";
static const char alpaca_without_input[] =
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\n";

static const char *const doubled_bos = "the text begins with the tokenizer's BOS token already; no second one is put before it";
static const char *const doubled_eos = "the text ends in the tokenizer's EOS token already; no second one is put after it";
static const char *const no_eos = "the tokenizer has no EOS token: the model will not learn where a row ends";

/* Tokenises m->text in one pass, with BOS and EOS. What begins at or after byte `from` is trained. */
static int make_row(struct pw_row_maker *m, size_t from)
{
    const struct pw_tokenizer *t = m->o->tokenizer;
    PW_PASS(pw_buf_status(&m->text));
    PW_PASS(pw_tokenizer_encode(t, m->text.len ? m->text.data : "", m->text.len, PW_TOK_PARSE_SPECIAL, &m->tokens));
    const struct pw_tokens *k = &m->tokens;
    bool bos = pw_tokenizer_adds_bos(t) && pw_tokenizer_bos(t) >= 0, eos = pw_tokenizer_eos(t) >= 0;
    if (bos && k->n > 0 && k->ids[0] == pw_tokenizer_bos(t)) {
        pw_row_warn(m, doubled_bos);
        bos = false;
    }
    if (!eos)
        pw_row_warn(m, no_eos);
    if (eos && k->n > 0 && k->ids[k->n - 1] == pw_tokenizer_eos(t)) {
        pw_row_warn(m, doubled_eos);
        eos = false;
    }
    PW_PASS(pw_row_set(m, k, bos, eos));
    bool all = m->o->train_on == PW_TRAIN_ALL && !m->answers;
    for (size_t i = 0; i < k->n; i++)
        m->trained[bos + i] = all || (k->start[i] >= 0 && (size_t)k->start[i] >= from);
    if (eos)
        m->trained[m->n - 1] = 1;
    return 0;
}

/* The row through one of the file's templates, appended to m->text. */
static int map_row(struct pw_row_maker *m, const struct pw_jinja *t, const struct pw_value *row, const char *what)
{
    struct pw_jinja_limits limits = {.now = m->o->now};
    PW_TRY(pw_jinja_render(t, row, &limits, &m->text, NULL), "rendering data.%s", what);
    return 0;
}

int pw_form_text(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    (void)a;
    pw_buf_clear(&m->text);
    if (m->whole) {
        PW_PASS(map_row(m, m->whole, row, "text"));
    } else {
        const char *s;
        size_t n;
        PW_PASS(pw_row_string(row, "text", true, &s, &n));
        pw_buf_add(&m->text, s, n);
    }
    return make_row(m, 0);
}

int pw_form_completion(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    (void)a;
    const char *s;
    size_t n;
    pw_buf_clear(&m->text);
    if (m->prompt) {
        PW_PASS(map_row(m, m->prompt, row, "prompt"));
    } else {
        PW_PASS(pw_row_string(row, "prompt", true, &s, &n));
        pw_buf_add(&m->text, s, n);
    }
    size_t from = m->text.len;
    if (m->completion) {
        PW_PASS(map_row(m, m->completion, row, "completion"));
    } else {
        PW_PASS(pw_row_string(row, "completion", true, &s, &n));
        pw_buf_add(&m->text, s, n);
    }
    return make_row(m, from);
}

int pw_form_alpaca(struct pw_row_maker *m, struct pw_arena *a, const struct pw_value *row)
{
    (void)a;
    const char *instruction, *input, *output;
    size_t n_instruction, n_input, n_output;
    PW_PASS(pw_row_string(row, "instruction", true, &instruction, &n_instruction));
    PW_PASS(pw_row_string(row, "input", false, &input, &n_input));
    PW_PASS(pw_row_string(row, "output", true, &output, &n_output));
    pw_buf_clear(&m->text);
    pw_buf_str(&m->text, n_input ? alpaca_with_input : alpaca_without_input);
    pw_buf_add(&m->text, instruction, n_instruction);
    if (n_input) {
        pw_buf_str(&m->text, "\n\n### Input:\n");
        pw_buf_add(&m->text, input, n_input);
    }
    pw_buf_str(&m->text, "\n\n### Response:\n");
    size_t from = m->text.len;
    pw_buf_add(&m->text, output, n_output);
    return make_row(m, from);
}

int pw_row_answer(struct pw_row_maker *m, const char *prompt, size_t n_prompt, const char *answer, size_t n_answer)
{
    pw_buf_clear(&m->text);
    pw_buf_add(&m->text, prompt, n_prompt);
    pw_buf_add(&m->text, answer, n_answer);
    return make_row(m, n_prompt);
}
