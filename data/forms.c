/* The table of row forms, and what they share. */
#include "data/forms.h"

#include <inttypes.h>
#include <string.h>

#include "base/error.h"

static bool has_text(const struct pw_value *row) { return pw_get(row, "text"); }
static bool has_completion(const struct pw_value *row) { return pw_get(row, "prompt") && pw_get(row, "completion"); }
static bool has_alpaca(const struct pw_value *row) { return pw_get(row, "instruction") && pw_get(row, "output"); }
static bool has_messages(const struct pw_value *row) { return pw_get(row, "messages"); }
static bool has_conversations(const struct pw_value *row) { return pw_get(row, "conversations"); }
static bool has_preference(const struct pw_value *row) { return pw_get(row, "chosen") && pw_get(row, "rejected"); }
static bool has_label(const struct pw_value *row) { return has_completion(row) && pw_get(row, "label"); }

const struct pw_row_form pw_forms[] = {
    {"messages", has_messages, pw_form_messages, PW_ROW_ALONE},
    {"sharegpt", has_conversations, pw_form_sharegpt, PW_ROW_ALONE},
    {"preference", has_preference, pw_form_preference, PW_ROW_PAIRED},
    {"kto", has_label, pw_form_kto, PW_ROW_LABELLED},
    {"completion", has_completion, pw_form_completion, PW_ROW_ALONE},
    {"alpaca", has_alpaca, pw_form_alpaca, PW_ROW_ALONE},
    {"text", has_text, pw_form_text, PW_ROW_ALONE},
    {NULL, NULL, NULL, PW_ROW_ALONE},
};

const struct pw_row_form *pw_form_find(const char *name)
{
    for (const struct pw_row_form *f = pw_forms; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

void pw_row_warn(struct pw_row_maker *m, const char *what)
{
    int i = 0;
    while (i < m->n_warnings && strcmp(m->warnings[i].what, what) != 0)
        i++;
    if (i == (int)(sizeof m->warnings / sizeof m->warnings[0]))
        return; /* more kinds than there are constants */
    if (i == m->n_warnings) {
        m->warnings[i].what = what;
        m->warnings[i].line = m->line;
        m->warnings[i].count = 0;
        m->n_warnings++;
    }
    m->warnings[i].count++;
}

int pw_row_reserve(struct pw_row_maker *m, int64_t n)
{
    if (n <= m->cap)
        return 0;
    int64_t cap = n + n / 2 + 256;
    void *ids = pw_realloc(m->ids, (size_t)m->cap * sizeof *m->ids, (size_t)cap * sizeof *m->ids);
    PW_CHECK(ids, PW_E_NOMEM, "no memory for a row of %" PRId64 " tokens", n);
    m->ids = ids;
    void *trained = pw_realloc(m->trained, (size_t)m->cap, (size_t)cap);
    PW_CHECK(trained, PW_E_NOMEM, "no memory for a row of %" PRId64 " tokens", n);
    m->trained = trained;
    void *weight = pw_realloc(m->weight, (size_t)m->cap * sizeof *m->weight, (size_t)cap * sizeof *m->weight);
    PW_CHECK(weight, PW_E_NOMEM, "no memory for a row of %" PRId64 " tokens", n);
    m->weight = weight;
    m->cap = cap;
    return 0;
}

int pw_row_set(struct pw_row_maker *m, const struct pw_tokens *t, bool bos, bool eos)
{
    PW_PASS(pw_row_reserve(m, (int64_t)t->n + 2));
    m->n = 0;
    if (bos)
        m->ids[m->n++] = pw_tokenizer_bos(m->o->tokenizer);
    if (t->n > 0)
        memcpy(m->ids + m->n, t->ids, t->n * sizeof *t->ids);
    m->n += (int64_t)t->n;
    if (eos)
        m->ids[m->n++] = pw_tokenizer_eos(m->o->tokenizer);
    if (m->n > 0)
        memset(m->trained, 0, (size_t)m->n);
    m->weighted = false;
    return 0;
}

void pw_row_weigh(struct pw_row_maker *m, int64_t from, int64_t to, double weight)
{
    if (weight == 1)
        return;
    for (int64_t i = 0; !m->weighted && i < m->n; i++)
        m->weight[i] = 1;
    m->weighted = true;
    for (int64_t i = from; i < to; i++)
        m->weight[i] = (float)((double)m->weight[i] * weight);
}

int pw_row_string(const struct pw_value *row, const char *key, bool required, const char **s, size_t *n)
{
    const struct pw_value *v = pw_get(row, key);
    if (!required && (!v || v->kind == PW_NULL)) {
        *s = "";
        *n = 0;
        return 0;
    }
    PW_CHECK(v, PW_E_FORMAT, "the row has no key \"%s\"", key);
    PW_CHECK(v->kind == PW_STRING, PW_E_FORMAT, "\"%s\": expected string, got %s", key, pw_kind_name(v->kind));
    *s = v->s;
    *n = v->len;
    return 0;
}
