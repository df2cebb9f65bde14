/* Normalisers and pre-tokenizers, both on text that knows where in the original it came from.
 *
 * Pre-tokenizers run depth first: each step hands its pieces to the next, the last one to the model, left to right; no list
 * of words is ever kept. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

int64_t tok_start(const struct tok_view *v, size_t pos)
{
    if (v->from)
        return v->from[pos];
    while (pos > 0 && ((unsigned char)v->s[pos] & 0xC0) == 0x80)
        pos--;
    return (int64_t)v->base + (int64_t)pos;
}

int64_t tok_end(const struct tok_view *v, size_t pos)
{
    if (v->to)
        return v->to[pos];
    for (pos++; pos < v->n && ((unsigned char)v->s[pos] & 0xC0) == 0x80;)
        pos++;
    return (int64_t)v->base + (int64_t)pos;
}

struct tok_view tok_slice(const struct tok_view *v, size_t start, size_t end)
{
    return (struct tok_view){ v->s + start, end - start, v->from ? v->from + start : NULL, v->to ? v->to + start : NULL,
                              v->base + (uint32_t)start };
}

static int room_for(struct tok_build *b, size_t need)
{
    size_t c1 = b->cap, c2 = b->cap, c3 = b->cap;
    if (need <= b->cap)
        return 0;
    PW_CHECK(need < UINT32_MAX, PW_E_UNSUPPORTED, "a normalised text of %zu bytes", need);
    PW_PASS(tok_grow((void **)&b->s, &c1, need, 1));
    PW_PASS(tok_grow((void **)&b->from, &c2, need, sizeof *b->from));
    PW_PASS(tok_grow((void **)&b->to, &c3, need, sizeof *b->to));
    b->cap = c1;
    return 0;
}

int tok_put(struct tok_build *b, const char *s, size_t n, uint32_t from, uint32_t to)
{
    PW_PASS(room_for(b, b->n + n));
    for (size_t i = 0; i < n; i++) {
        b->s[b->n] = s[i];
        b->from[b->n] = from;
        b->to[b->n++] = to;
    }
    return 0;
}

static int copy(struct tok_build *b, const struct tok_view *v, size_t start, size_t end)
{
    if (end == start)
        return 0;
    PW_PASS(room_for(b, b->n + (end - start)));
    if (v->from) {
        memcpy(b->from + b->n, v->from + start, (end - start) * sizeof *b->from);
        memcpy(b->to + b->n, v->to + start, (end - start) * sizeof *b->to);
    } else {
        for (size_t i = start, len; i < end; i += len) {
            uint32_t cp;
            len = pw_utf8_get(v->s + i, v->n - i, &cp);
            for (size_t j = i; j < i + len && j < end; j++) {
                b->from[b->n + j - start] = v->base + (uint32_t)i;
                b->to[b->n + j - start] = v->base + (uint32_t)(i + len);
            }
        }
    }
    memcpy(b->s + b->n, v->s + start, end - start);
    b->n += end - start;
    return 0;
}

static struct tok_view view_of(const struct tok_build *b) { return (struct tok_view){ b->s ? b->s : "", b->n, b->from, b->to, 0 }; }

/* The next match at or after `at`; an empty one is stepped over by the caller. 1, 0, negative. */
static int find(const char *lit, size_t lit_len, const struct pw_regex *regex, struct pw_tok_work *w, const struct tok_view *v, size_t at,
                size_t *start, size_t *end)
{
    if (regex)
        return at > v->n ? 0 : pw_regex_find(regex, w->room, v->s, v->n, at, start, end);
    const char *hit = at < v->n && lit_len ? memmem(v->s + at, v->n - at, lit, lit_len) : NULL;
    if (!hit)
        return 0;
    *start = (size_t)(hit - v->s);
    *end = *start + lit_len;
    return 1;
}

static size_t step_over(const struct tok_view *v, size_t at)
{
    uint32_t cp;
    return at < v->n ? at + pw_utf8_get(v->s + at, v->n - at, &cp) : at + 1;
}

static int replace(struct pw_tok_work *w, const struct tok_norm *step, const struct tok_view *v, struct tok_build *b)
{
    size_t last = 0, at = 0, start, end;
    int rc;
    while ((rc = find(step->find, step->find_len, step->regex, w, v, at, &start, &end)) > 0) {
        uint32_t from = end ? (uint32_t)tok_start(v, end - 1) : 0, to = end ? (uint32_t)tok_end(v, end - 1) : 0;
        PW_PASS(copy(b, v, last, start));
        PW_PASS(tok_put(b, step->with, step->with_len, from, to));
        last = end;
        at = end > start ? end : step_over(v, end);
    }
    PW_PASS(rc);
    return copy(b, v, last, v->n);
}

static int form(struct pw_tok_work *w, const struct tok_norm *step, const struct tok_view *v, struct tok_build *b)
{
    size_t n = 0, m, need;
    char c[4];
    PW_CHECK(pw_mul_size(v->n, 19, &need), PW_E_NOMEM, "no memory for normalising");
    /* Characters below U+00C0 (form C) or below U+0080 are their own normal form and join with nothing but marks. */
    for (m = 0; m < v->n && (unsigned char)v->s[m] < 0x80;)
        m++;
    if (m == v->n)
        return copy(b, v, 0, v->n);
    PW_PASS(tok_grow((void **)&w->chars, &w->chars_cap, need, sizeof *w->chars));
    for (size_t i = 0, len; i < v->n; i += len, n++) {
        len = pw_utf8_get(v->s + i, v->n - i, &w->chars[n].cp);
        w->chars[n].start = (uint32_t)tok_start(v, i);
        w->chars[n].end = (uint32_t)tok_end(v, i + len - 1);
    }
    m = pw_utf8_normalize(w->chars, n, step->form, w->chars + n);
    for (size_t i = 0; i < m; i++) {
        const struct pw_char *x = &w->chars[n + i];
        PW_PASS(tok_put(b, c, pw_utf8_put(x->cp, c), x->start, x->end));
    }
    return 0;
}

static int lower(const struct tok_view *v, struct tok_build *b)
{
    for (size_t i = 0, len; i < v->n; i += len) {
        uint32_t cp, to[2];
        char c[4];
        len = pw_utf8_get(v->s + i, v->n - i, &cp);
        size_t k = pw_cp_lower(cp, to);
        for (size_t j = 0; j < k; j++)
            PW_PASS(tok_put(b, c, pw_utf8_put(to[j], c), (uint32_t)tok_start(v, i), (uint32_t)tok_end(v, i + len - 1)));
    }
    return 0;
}

static void strip(const struct tok_norm *step, struct tok_view *v)
{
    uint32_t cp;
    size_t a = 0, z = v->n, len;
    while (step->left && a < z && (len = pw_utf8_get(v->s + a, z - a, &cp), pw_cp_space(cp)))
        a += len;
    while (step->right && z > a) {
        size_t last = z - 1;
        while (last > a && ((unsigned char)v->s[last] & 0xC0) == 0x80)
            last--;
        pw_utf8_get(v->s + last, z - last, &cp);
        if (!pw_cp_space(cp))
            break;
        z = last;
    }
    *v = tok_slice(v, a, z);
}

/* The result lives in w->norm (or is the input) until the next call. */
int tok_normalize(const struct pw_tokenizer *t, struct pw_tok_work *w, const struct tok_view *in, struct tok_view *out)
{
    size_t turn = 0;
    *out = *in;
    for (size_t i = 0; i < t->n_norm; i++) {
        const struct tok_norm *step = &t->norm[i];
        struct tok_build *b = &w->norm[turn];
        if (step->kind == NORM_STRIP) {
            strip(step, out);
            continue;
        }
        b->n = 0;
        switch (step->kind) {
        case NORM_PREPEND:
            if (out->n == 0)
                continue;
            PW_PASS(tok_put(b, step->with, step->with_len, (uint32_t)tok_start(out, 0), (uint32_t)tok_end(out, 0)));
            PW_PASS(copy(b, out, 0, out->n));
            break;
        case NORM_REPLACE:
            PW_PASS(replace(w, step, out, b));
            break;
        case NORM_FORM:
            PW_PASS(form(w, step, out, b));
            break;
        case NORM_LOWER:
            PW_PASS(lower(out, b));
            break;
        case NORM_PRECOMPILED:
            PW_PASS(tok_precompiled(t, out, b));
            break;
        case NORM_SPM:
            PW_PASS(tok_spm_normalize(t, out, b));
            break;
        default:
            break;
        }
        *out = view_of(b);
        turn ^= 1;
    }
    return 0;
}

/* Ranges come in order, matches and what lies between them; `hold` merges them as the behaviour says. */
struct splitter {
    const struct pw_tokenizer *t;
    size_t step;
    const struct tok_view *v;
    struct pw_tokens *out;
    enum tok_behaviour behaviour;
    bool held, held_match, last_match, byte_level;
    size_t start, end;
};

static int release(struct splitter *s)
{
    if (!s->held || s->start == s->end)
        return 0;
    struct tok_view part = tok_slice(s->v, s->start, s->end);
    return tok_split(s->t, s->step + 1, &part, s->byte_level, s->out);
}

static int hold(struct splitter *s, size_t start, size_t end, bool match)
{
    bool join = false;
    switch (s->behaviour) {
    case SPLIT_REMOVED:
        if (match)
            return 0;
        break;
    case SPLIT_ISOLATED:
        break;
    case SPLIT_CONTIGUOUS:
        join = s->held && s->held_match == match;
        break;
    case SPLIT_WITH_PREVIOUS:
        join = s->held && match && !s->last_match;
        s->last_match = match;
        break;
    case SPLIT_WITH_NEXT:
        join = s->held && s->held_match && !match;
        break;
    }
    if (join) {
        s->end = end;
        s->held_match = match;
        return 0;
    }
    PW_PASS(release(s));
    s->held = true;
    s->held_match = match;
    s->start = start;
    s->end = end;
    return 0;
}

static int split_matches(struct splitter *s, const struct tok_pre *step)
{
    struct pw_tok_work *w = s->out->work;
    size_t last = 0, at = 0, start, end;
    int rc;
    while ((rc = find(step->find, step->find_len, step->regex, w, s->v, at, &start, &end)) > 0) {
        if (start > last)
            PW_PASS(hold(s, last, start, step->invert));
        PW_PASS(hold(s, start, end, !step->invert));
        last = end;
        at = end > start ? end : step_over(s->v, end);
    }
    PW_PASS(rc);
    if (last < s->v->n)
        PW_PASS(hold(s, last, s->v->n, step->invert));
    return release(s);
}

static int split_class(struct splitter *s, bool (*class)(uint32_t cp))
{
    size_t last = 0; /* where the characters outside the class begin that are not handed on yet */
    for (size_t i = 0, len; i < s->v->n; i += len) {
        uint32_t cp;
        len = pw_utf8_get(s->v->s + i, s->v->n - i, &cp);
        if (!class(cp))
            continue;
        if (i > last)
            PW_PASS(hold(s, last, i, false));
        PW_PASS(hold(s, i, i + len, true));
        last = i + len;
    }
    if (last < s->v->n)
        PW_PASS(hold(s, last, s->v->n, false));
    return release(s);
}

static int metaspace(const struct tok_pre *step, struct pw_tok_work *w, struct tok_build *b, const struct tok_view *v, struct tok_view *out)
{
    struct tok_norm spaces = { .kind = NORM_REPLACE, .find = " ", .find_len = 1, .with = step->find, .with_len = step->find_len };
    bool begins = v->n && (v->s[0] == ' ' || (v->n >= step->find_len && memcmp(v->s, step->find, step->find_len) == 0));
    b->n = 0;
    if (v->n && !begins && (step->scheme == SCHEME_ALWAYS || (step->scheme == SCHEME_FIRST && tok_start(v, 0) == 0)))
        PW_PASS(tok_put(b, step->find, step->find_len, (uint32_t)tok_start(v, 0), (uint32_t)tok_end(v, 0)));
    PW_PASS(replace(w, &spaces, v, b));
    *out = view_of(b);
    return 0;
}

int tok_split(const struct pw_tokenizer *t, size_t step_at, const struct tok_view *v, bool byte_level, struct pw_tokens *out)
{
    if (step_at == t->n_pre)
        return t->unigram.on ? tok_unigram_word(t, v, out) : tok_bpe_word(t, v, byte_level, out);
    const struct tok_pre *step = &t->pre[step_at];
    struct tok_build *b = &out->work->level[step_at];
    struct tok_view changed = *v;
    struct splitter s = { .t = t, .step = step_at, .v = &changed, .out = out, .behaviour = step->behaviour, .byte_level = byte_level };
    switch (step->kind) {
    case PRE_BYTE_LEVEL:
        s.byte_level = true;
        s.behaviour = SPLIT_ISOLATED;
        if (step->prefix_space && v->n && v->s[0] != ' ') {
            b->n = 0;
            PW_PASS(tok_put(b, " ", 1, (uint32_t)tok_start(v, 0), (uint32_t)tok_end(v, 0)));
            PW_PASS(copy(b, v, 0, v->n));
            changed = view_of(b);
        }
        return step->regex ? split_matches(&s, step) : tok_split(t, step_at + 1, &changed, true, out);
    case PRE_SPLIT:
        return split_matches(&s, step);
    case PRE_CLASS:
        return split_class(&s, step->class);
    case PRE_METASPACE:
        PW_PASS(metaspace(step, out->work, b, v, &changed));
        s.behaviour = SPLIT_WITH_NEXT;
        return step->split ? split_matches(&s, step) : tok_split(t, step_at + 1, &changed, byte_level, out);
    }
    return 0;
}
