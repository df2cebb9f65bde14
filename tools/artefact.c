/* Comparing two artefacts for commands (see the header). */
#include "tools/artefact.h"

#include <string.h>

#include "base/file.h"
#include "base/limit.h"
#include "lora/adapter_file.h"
#include "tools/prompts.h"

/* ---- names ---- */

static bool adapter_exists(struct pw_arena *a, const char *given)
{
    const char *path;
    double scale;
    return given[0] && pw_adapter_argument(a, given, &path, &scale) == 0 && (pw_file_exists(path) || pw_is_dir(path));
}

int pw_artefact_parse(struct pw_arena *a, const char *given, struct pw_artefact *out)
{
    const char *cut = NULL;
    *out = (struct pw_artefact){.model = given, .type = ""};
    if (pw_file_exists(given) || pw_is_dir(given) || !strchr(given, '+'))
        return 0;
    for (const char *at = strrchr(given, '+'); at && !cut;) {
        if (adapter_exists(a, at + 1))
            cut = at;
        const char *before = NULL;
        for (const char *p = given; p < at; p++)
            if (*p == '+')
                before = p;
        at = before;
    }
    if (!cut)
        cut = strchr(given, '+');
    PW_CHECK(cut > given && cut[1], PW_E_USAGE, "%s: expected MODEL or MODEL+ADAPTER", given);
    out->model = pw_arena_strndup(a, given, (size_t)(cut - given));
    out->adapter = pw_arena_strndup(a, cut + 1, strlen(cut + 1));
    PW_CHECK(out->model && out->adapter, PW_E_NOMEM, "out of memory");
    return 0;
}

/* ---- loading ---- */

struct sides {
    const struct pw_cmd *c;
    const struct pw_artefact *given;
    struct pw_loaded l[2];
    bool there[2], both;
};

static int load(struct sides *s, int side, uint64_t taken)
{
    const struct pw_artefact *k = &s->given[side];
    struct pw_common common = *s->c->common;
    struct pw_cmd c = *s->c;
    const char *adapter[1] = {k->adapter};
    common.adapters = (struct pw_strings){adapter, k->adapter != NULL};
    common.type = k->type;
    common.double_quant = k->double_quant;
    common.force |= k->force;
    if (common.memory) {
        PW_CHECK(common.memory > taken, PW_E_REFUSED, "both models do not fit into --memory");
        common.memory -= taken;
    }
    if (k->same_tokenizer)
        common.tokenizer = NULL;
    c.common = &common;
    PW_TRY(pw_load_attached(&s->l[side], &c, k->model, !k->same_tokenizer), "%s", side ? "RIGHT" : "LEFT");
    s->there[side] = true;
    return 0;
}

static void unload(struct sides *s, int side)
{
    if (s->there[side])
        pw_unload(&s->l[side]);
    s->there[side] = false;
    if (s->c->common->memory)
        pw_memory_trim();          /* what comes next is planned with what is resident then */
}

static int hand_out(void *ctx, int side, struct pw_model **out)
{
    struct sides *s = ctx;
    if (!s->both && !s->there[side]) {
        unload(s, !side);
        PW_PASS(load(s, side, 0));
    }
    *out = s->l[side].model;
    return 0;
}

static uint64_t file_bytes(const struct pw_loaded *l) { return l->dev->host && l->model->checkpoint ? pw_checkpoint_bytes(l->model->checkpoint) : 0; }

/* Memory, of the machine or of the limit: the other model may go. */
static bool does_not_fit(int rc) { return rc == PW_E_REFUSED || rc == PW_E_NOMEM; }

/* ---- tokenizers: the same bytes behind each id ---- */

struct pieces { struct pw_buf bytes; size_t *end; int32_t n; char hash[65]; };

static int read_pieces(struct pw_arena *a, const struct pw_tokenizer *t, struct pieces *out)
{
    out->n = pw_tokenizer_vocab(t);
    snprintf(out->hash, sizeof out->hash, "%s", pw_tokenizer_hash(t));
    out->end = pw_arena_array(a, (size_t)out->n + 1, sizeof *out->end);
    PW_CHECK(out->end, PW_E_NOMEM, "out of memory");
    for (int32_t i = 0; i < out->n; i++) {
        if (pw_tokenizer_piece(t, i))
            PW_PASS(pw_token_bytes(t, i, &out->bytes));
        out->end[i] = out->bytes.len;
    }
    return pw_buf_status(&out->bytes);
}

static void shown(char out[40], const struct pieces *p, int32_t i)
{
    const size_t from = i ? p->end[i - 1] : 0, n = p->end[i] - from;
    snprintf(out, 40, "\"%.*s\"%s", (int)(n < 30 ? n : 30), p->bytes.data ? p->bytes.data + from : "", n > 30 ? "..." : "");
}

static int same_pieces(const struct pieces *p, const struct pieces *q)
{
    if (strcmp(p->hash, q->hash) == 0)
        return 0;
    const int32_t n = p->n < q->n ? p->n : q->n;
    for (int32_t i = 0; i < n; i++) {
        const size_t a = i ? p->end[i - 1] : 0, b = i ? q->end[i - 1] : 0;
        if (p->end[i] - a == q->end[i] - b && memcmp(p->bytes.data + a, q->bytes.data + b, p->end[i] - a) == 0)
            continue;
        char left[40], right[40];
        shown(left, p, i);
        shown(right, q, i);
        const int rc = pw_error(PW_E_FAIL, "the tokenizers differ: token %d is %s in LEFT and %s in RIGHT", (int)i, left, right);
        pw_error_hint("only artefacts of one base can be compared token by token");
        return rc;
    }
    return 0;
}

static int same_ids(const struct pw_prompts *p, const struct pw_prompts *q)
{
    for (size_t i = 0; i < p->n; i++)
        PW_CHECK(p->items[i].n == q->items[i].n && memcmp(p->items[i].ids, q->items[i].ids, (size_t)p->items[i].n * sizeof(int32_t)) == 0, PW_E_FAIL,
                 "the tokenizers differ: they cut prompt %zu into different tokens", i);
    return 0;
}

/* Prompts by the left tokenizer; by the right one they must be the same ids (messages: the left's rendering is what both read, so only
 * plain texts are cut twice). */
static int tokens_of(struct sides *s, int side, struct pw_arena *a, const char *path, int64_t context, struct pieces *pieces, struct pw_prompts *prompts)
{
    PW_PASS(read_pieces(a, s->l[side].tokenizer, pieces));
    return prompts ? pw_prompts_read(a, path, s->l[side].tokenizer, s->given[side].model, context, prompts) : 0;
}

static void token_text(const struct pieces *p, int32_t id, char out[64])
{
    const size_t from = id > 0 && id < p->n ? p->end[id - 1] : 0, n = id < p->n ? p->end[id] - from : 0;
    snprintf(out, 64, "%.*s", (int)(n < 60 ? n : 60), p->bytes.data ? p->bytes.data + from : "");
}

/* ---- the comparison ---- */

static int prepare(struct sides *s, struct pw_arena *a, const char *path, struct pieces pieces[2], struct pw_prompts *prompts)
{
    struct pw_prompts again;
    PW_PASS(load(s, 0, 0));
    const int64_t context = s->l[0].model->config.context;
    PW_PASS(tokens_of(s, 0, a, path, context, &pieces[0], prompts));
    int rc = load(s, 1, file_bytes(&s->l[0]));
    s->both = rc == 0;
    if (does_not_fit(rc)) {
        pw_error_clear();
        unload(s, 0);
        rc = load(s, 1, 0);
    }
    PW_PASS(rc);
    if (s->both && s->c->common->memory)
        s->l[0].model->memory -= file_bytes(&s->l[1]);
    if (s->given[1].same_tokenizer)
        return 0;
    PW_PASS(tokens_of(s, 1, a, path, context, &pieces[1], NULL));
    PW_PASS(same_pieces(&pieces[0], &pieces[1]));
    const bool has_template = pw_tokenizer_template(s->l[1].tokenizer, NULL);
    if (!path || has_template || strcmp(pieces[0].hash, pieces[1].hash) != 0) {
        rc = pw_prompts_read(a, path, s->l[1].tokenizer, s->given[1].model, context, &again);
        if (rc == PW_E_REFUSED && !has_template)
            pw_error_clear();      /* messages, and the right one carries no template: the left's rendering is what is compared on */
        else {
            PW_TRY(rc, "RIGHT");
            PW_PASS(same_ids(prompts, &again));
        }
    }
    return 0;
}

int pw_artefact_compare(struct pw_artefact_diff *out, const struct pw_cmd *c, const struct pw_artefact side[2], const char *path, double tolerance)
{
    struct sides s = {.c = c, .given = side};
    struct pieces pieces[2] = {0};
    struct pw_prompts prompts;
    struct pw_arena a;
    int rc = 0;
    pw_arena_init(&a);
    *out = (struct pw_artefact_diff){0};
    if (c->common->memory)
        pw_memory_trim();
    PW_PASS_OUT(prepare(&s, &a, path, pieces, &prompts));
    struct pw_verify_options o = {.tolerance = tolerance, .both = s.both, .keep_bytes = side[0].keep_bytes ? side[0].keep_bytes : c->common->memory / 16};
    pw_progress_start(c->progress, "comparing", c->common->quiet);
    if (s.both) {
        rc = pw_verify(&out->r, prompts.items, prompts.n, &o, hand_out, &s, c->progress);
        if (does_not_fit(rc)) {
            pw_error_clear();
            unload(&s, 0);
            s.both = false;
        }
    }
    if (!s.both) {
        pw_progress_say(c->progress, "the two models do not fit together: one at a time");
        out->one_at_a_time = true;
        o.both = false;
        rc = pw_verify(&out->r, prompts.items, prompts.n, &o, hand_out, &s, c->progress);
    }
    PW_PASS_OUT(rc);
    pw_progress_end(c->progress, NULL);
    token_text(&pieces[0], out->r.left, out->left_text);
    token_text(&pieces[0], out->r.right, out->right_text);
out:
    unload(&s, 0);
    unload(&s, 1);
    pw_buf_free(&pieces[0].bytes);
    pw_buf_free(&pieces[1].bytes);
    pw_arena_free(&a);
    return rc;
}

/* ---- beforehand ---- */

/* What is left of the work before in the heap and of code that it used; 0.3 to 2 MiB were measured after merging. */
#define BETWEEN ((size_t)4 << 20)

int pw_artefact_plan(struct pw_artefact *left, const struct pw_adapter *a, uint64_t right_bytes, const struct pw_cmd *c, const char *path)
{
    const uint64_t memory = c->common->memory;
    const struct pw_model_options mo = {.tokenizer = c->common->tokenizer, .context = c->common->ctx, .cache_type = c->common->cache_type, .measure = true};
    struct pw_cmd silent = *c;
    struct pw_dev *dev = NULL;
    struct pw_model *m = NULL;
    struct pw_tokenizer *t = NULL;
    struct pw_prompts prompts;
    struct pw_adapter_size size = {0};
    struct pw_arena arena;
    const char *file = NULL;
    double scale;
    int rc = 0;
    if (memory == 0)
        return 0;
    silent.progress = NULL;                   /* comparing says it */
    pw_arena_init(&arena);
    PW_PASS_OUT(pw_cmd_device(&silent, &dev));
    PW_PASS_OUT(pw_model_load(&m, dev, left->model, &mo));
    PW_PASS_OUT(pw_model_attach_shapes(m, a));
    PW_PASS_OUT(pw_load_tokenizer(&t, c, left->model));
    PW_PASS_OUT(pw_prompts_read(&arena, path, t, left->model, m->config.context, &prompts));
    PW_PASS_OUT(pw_adapter_argument(&arena, left->adapter, &file, &scale));
    PW_PASS_OUT(pw_adapter_measure(file, &size));
    const size_t base = dev->host ? m->mapped_bytes : 0, right = dev->host ? (size_t)right_bytes : 0, row = (size_t)m->config.vocab * sizeof(float);
    const size_t both = pw_verify_need(m, prompts.items, prompts.n) - base, between = dev->host ? BETWEEN : 0;
    const size_t adapter = size.made + (dev->host ? size.largest : 0), program = dev->host ? m->program_bytes + pw_rss_anon_bytes() : 0;
    /* The adapter is read before the session opens, from a file that is resident then. */
    const struct pw_limit_part plans[3][4] = {{{"program", program}, {"model file", base}, {"the adapter and its file", adapter + (dev->host ? size.stored : 0)}, {"what is left of merging", between}},
                                              {{"program and session", both}, {"model file", base}, {"the adapter", adapter}, {"what is left of merging", between}},
                                              {{"program and session", both}, {"merged model", right}, {"the adapter", 0}, {"what is left of merging", between}}};
    size_t sums[3] = {0}, over = 0;
    int most = 0;
    for (int i = 0; i < 3; i++) {
        for (int k = 0; k < 4; k++)
            sums[i] += plans[i][k].bytes;
        most = sums[i] > sums[most] ? i : most;
    }
    if (sums[1] < memory && sums[2] < memory)
        over = (size_t)memory - (sums[1] > sums[2] ? sums[1] : sums[2]);
    PW_TRY_OUT(pw_limit_check(memory, plans[most], 4, "--no-check leaves the comparison away"), "planning the comparison of adapter and merged model");
    left->keep_bytes = row + over < memory / 16 ? row + over : (size_t)memory / 16;
out:
    pw_arena_free(&arena);
    pw_tokenizer_free(t);
    pw_model_free(m);
    pw_dev_close(dev);
    return rc;
}

/* ---- the result ---- */

static void json_side(struct pw_json *w, const char *key, int32_t token, const char *text, const float logits[2])
{
    pw_json_open(w, key, '{');
    pw_json_i64(w, "token", token);
    pw_json_strn(w, "text", text, strlen(text));
    pw_json_open(w, "logits", '[');
    pw_json_f32(w, NULL, logits[0]);
    pw_json_f32(w, NULL, logits[1]);
    pw_json_close(w, ']');
    pw_json_close(w, '}');
}

void pw_artefact_json(const struct pw_artefact_diff *k, struct pw_json *w)
{
    const struct pw_verify_result *r = &k->r;
    pw_json_f64(w, "max_logit_diff", r->max_logit_diff);
    pw_json_f64(w, "kl", r->kl);
    pw_json_f64(w, "max_kl", r->max_kl);
    pw_json_i64(w, "prompts", r->prompts);
    pw_json_i64(w, "tokens", r->tokens);
    pw_json_i64(w, "same_token", r->same_token);
    if (r->kind == PW_VERIFY_SAME)
        pw_json_null(w, "first_difference");
    else {
        pw_json_open(w, "first_difference", '{');
        pw_json_str(w, "kind", r->kind == PW_VERIFY_TOKEN ? "token" : "logit");
        pw_json_i64(w, "prompt", r->prompt);
        pw_json_i64(w, "position", r->position);
        json_side(w, "left", r->left, k->left_text, r->left_logits);
        json_side(w, "right", r->right, k->right_text, r->right_logits);
        pw_json_close(w, '}');
    }
}

void pw_artefact_text(const struct pw_artefact_diff *k, struct pw_buf *out)
{
    const struct pw_verify_result *r = &k->r;
    pw_buf_printf(out, "%lld prompts, %lld tokens: largest difference of a logit %.6g (prompt %lld, position %lld, token %d), KL %.6g (largest %.6g), same likeliest token %lld of %lld\n",
                  (long long)r->prompts, (long long)r->tokens, r->max_logit_diff, (long long)r->worst_prompt, (long long)r->worst_position, (int)r->worst_token, r->kl, r->max_kl,
                  (long long)r->same_token, (long long)r->tokens);
    if (r->kind == PW_VERIFY_SAME)
        pw_buf_str(out, "no difference in what comes next\n");
    else
        pw_buf_printf(out, "first difference (%s): prompt %lld, after position %lld: left %d (%.6g, right's %.6g), right %d (%.6g, left's %.6g)\n",
                      r->kind == PW_VERIFY_TOKEN ? "token" : "logit", (long long)r->prompt, (long long)r->position, (int)r->left, (double)r->left_logits[0],
                      (double)r->left_logits[1], (int)r->right, (double)r->right_logits[1], (double)r->right_logits[0]);
}
