/* Decoding, one token at a time: each decoder of the chain is a stage that passes on what is certain and keeps the rest.
 * Decoding a whole sequence is the same code fed with all ids, so the two cannot differ. */
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

struct stage {
    struct pw_buf held;   /* bytes waiting: byte tokens, half a character, an edited token */
    int64_t tokens, cut;  /* seen; characters stripped so far (after Fuse) */
    bool fused, cutting;
};
struct pw_detok {
    const struct pw_tokenizer *t;
    unsigned flags;
    int64_t tokens;
    struct stage stages[TOK_STEPS];
};

/* <0xNN> -> the byte, else -1. */
static int byte_token(const char *s, size_t n)
{
    int value = 0;
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
        return -1;
    for (int i = 3; i < 5; i++) {
        int c = (unsigned char)s[i], d = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        value = value * 16 + d;
    }
    return value;
}

/* The bytes a byte-level piece stands for; a piece with any other character stands for itself. */
static void byte_level(const char *s, size_t n, struct pw_buf *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < n;) {
        uint32_t cp;
        i += pw_utf8_get(s + i, n - i, &cp);
        int b = tok_char_byte(cp);
        if (b < 0) {
            if (!out->failed)
                out->len = before;
            pw_buf_add(out, s, n);
            return;
        }
        pw_buf_char(out, (char)b);
    }
}

static void replace(const struct tok_dec *step, const char *s, size_t n, struct pw_buf *out)
{
    size_t last = 0;
    while (last < n) {
        const char *hit = memmem(s + last, n - last, step->find, step->find_len);
        if (!hit)
            break;
        pw_buf_add(out, s + last, (size_t)(hit - s) - last);
        pw_buf_add(out, step->with, step->with_len);
        last = (size_t)(hit - s) + step->find_len;
    }
    pw_buf_add(out, s + last, n - last);
}

static void feed(struct pw_detok *d, size_t at, const char *s, size_t n, struct pw_buf *out);

static void flush_bytes(struct pw_detok *d, size_t at, struct pw_buf *out)
{
    struct stage *g = &d->stages[at];
    size_t n = g->held.len;
    if (n == 0)
        return;
    if (pw_utf8_check(g->held.data, n) == n)
        feed(d, at + 1, g->held.data, n, out);
    else
        for (size_t i = 0; i < n; i++)
            feed(d, at + 1, "\xEF\xBF\xBD", 3, out);
    pw_buf_clear(&g->held);
}

/* Strip: of one token, or after Fuse of the text's beginning, however it arrives. */
static void strip(struct pw_detok *d, size_t at, const char *s, size_t n, struct pw_buf *out)
{
    const struct tok_dec *step = &d->t->dec[at];
    struct stage *g = &d->stages[at];
    size_t a = 0;
    int64_t left = g->fused ? g->cutting ? step->start - g->cut : 0 : step->start;
    while (left > 0 && n - a >= step->find_len && memcmp(s + a, step->find, step->find_len) == 0) {
        a += step->find_len;
        left--;
        g->cut++;
    }
    if (a < n || left == 0)
        g->cutting = false;
    for (int64_t i = 0; i < step->stop && n - a >= step->find_len && memcmp(s + n - step->find_len, step->find, step->find_len) == 0; i++)
        n -= step->find_len;
    feed(d, at + 1, s + a, n - a, out);
}

/* One token (or, after Fuse, one more part of the text) enters stage `at`. */
static void feed(struct pw_detok *d, size_t at, const char *s, size_t n, struct pw_buf *out)
{
    struct stage *g = &d->stages[at];
    if (at == d->t->n_dec) {
        pw_buf_add(out, s, n);
        return;
    }
    const struct tok_dec *step = &d->t->dec[at];
    switch (step->kind) {
    case DEC_BYTE_LEVEL: {
        byte_level(s, n, &g->held);
        size_t open = pw_utf8_open_tail(g->held.data ? g->held.data : "", g->held.len), whole = g->held.len - open;
        if (whole) {
            struct pw_buf text = { 0 };
            pw_utf8_lossy(g->held.data, whole, &text);
            if (text.failed)
                out->failed = true;
            feed(d, at + 1, text.data ? text.data : "", text.len, out);
            pw_buf_free(&text);
            memmove(g->held.data, g->held.data + whole, open);
            g->held.len = open;
        }
        break;
    }
    case DEC_REPLACE:
        pw_buf_clear(&g->held);
        replace(step, s, n, &g->held);
        feed(d, at + 1, g->held.data ? g->held.data : "", g->held.len, out);
        break;
    case DEC_METASPACE:
        pw_buf_clear(&g->held);
        replace(&(struct tok_dec){ .find = step->find, .find_len = step->find_len, .with = " ", .with_len = g->tokens || step->scheme == SCHEME_NEVER }, s, n,
                &g->held);
        feed(d, at + 1, g->held.data ? g->held.data : "", g->held.len, out);
        break;
    case DEC_BYTE_FALLBACK: {
        int b = byte_token(s, n);
        if (b >= 0) {
            pw_buf_char(&g->held, (char)b);
        } else {
            flush_bytes(d, at, out);
            feed(d, at + 1, s, n, out);
        }
        break;
    }
    case DEC_FUSE:
        feed(d, at + 1, s, n, out);
        break;
    case DEC_STRIP:
        strip(d, at, s, n, out);
        break;
    }
    g->tokens++;
    if (g->held.failed)
        out->failed = true;
}

/* ---- SentencePiece ---- */

/* Byte pieces: whole characters as soon as they are there, U+FFFD for each byte that cannot be part of one. */
static void spm_bytes(struct pw_buf *held, bool end, struct pw_buf *out)
{
    size_t at = 0;
    while (at < held->len) {
        size_t k = 1;
        while (k <= 4 && at + k <= held->len && pw_utf8_check(held->data + at, k) != k)
            k++;
        if (k <= 4 && at + k <= held->len) {
            pw_buf_add(out, held->data + at, k);
            at += k;
        } else if (!end && pw_utf8_open_tail(held->data + at, held->len - at) == held->len - at) {
            break;
        } else {
            pw_buf_str(out, "\xEF\xBF\xBD");
            at++;
        }
    }
    if (at)
        memmove(held->data, held->data + at, held->len - at);
    held->len -= at;
}

/* stages[0]: held bytes; cutting: still at the beginning of the text, where the space that encoding put there is dropped. */
static void spm_feed(struct pw_detok *d, int32_t id, const char *s, size_t n, struct pw_buf *out)
{
    const struct tok_spm *spm = &d->t->spm;
    struct stage *g = &d->stages[0];
    size_t before = out->len;
    int type = d->t->types[id];
    if (type == PW_PIECE_BYTE) {
        int b = byte_token(s, n);
        pw_buf_char(&g->held, (char)b);
        spm_bytes(&g->held, false, out);
        g->cutting = g->cutting && g->held.len == 0 && out->len == before;
        return;
    }
    spm_bytes(&g->held, true, out);
    if (out->len != before)
        g->cutting = false;
    if (type == PW_PIECE_UNKNOWN && spm->unk_surface) {
        pw_buf_str(out, spm->unk_surface);
    } else if (type == PW_PIECE_CONTROL || type == PW_PIECE_UNKNOWN) {
        pw_buf_add(out, s, n);
        return; /* the text begins after it */
    } else {
        if (g->cutting && (spm->prefix || spm->squeeze) && n >= 3 && memcmp(s, "\xE2\x96\x81", 3) == 0) {
            s += 3;
            n -= 3;
            if (!spm->squeeze)
                g->cutting = false;
        }
        replace(&(struct tok_dec){ .find = "\xE2\x96\x81", .find_len = 3, .with = " ", .with_len = 1 }, s, n, out);
    }
    if (out->len != before)
        g->cutting = false;
}

static void restart(struct pw_detok *d)
{
    bool fused = false;
    d->tokens = 0;
    for (size_t i = 0; i < d->t->n_dec; i++) {
        struct stage *g = &d->stages[i];
        pw_buf_clear(&g->held);
        g->tokens = g->cut = 0;
        g->fused = fused;
        g->cutting = fused;
        fused = fused || d->t->dec[i].kind == DEC_FUSE || d->t->dec[i].kind == DEC_BYTE_LEVEL;
    }
    if (d->t->spm.on) {
        pw_buf_clear(&d->stages[0].held);
        d->stages[0].cutting = true;
    }
}

int pw_detok_open(struct pw_detok **out, const struct pw_tokenizer *t, unsigned flags)
{
    struct pw_detok *d = pw_alloc_zero(1, sizeof *d);
    *out = d;
    PW_CHECK(d, PW_E_NOMEM, "no memory for decoding");
    d->t = t;
    d->flags = flags;
    restart(d);
    return 0;
}

void pw_detok_free(struct pw_detok *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < TOK_STEPS; i++)
        pw_buf_free(&d->stages[i].held);
    pw_free(d);
}

int pw_detok_push(struct pw_detok *d, int32_t id, struct pw_buf *out)
{
    size_t n;
    const char *piece = tok_vocab_piece(&d->t->vocab, id, &n);
    PW_CHECK(piece, PW_E_FORMAT, "id %d is not in the vocabulary (%zu ids)", (int)id, d->t->vocab.n);
    if ((d->flags & PW_TOK_SKIP_SPECIAL) && d->t->special[id])
        return 0;
    if (d->t->spm.on) {
        spm_feed(d, id, piece, n, out);
        if (d->stages[0].held.failed)
            out->failed = true;
        return pw_buf_status(out);
    }
    if (!d->t->has_decoder && d->tokens)
        pw_buf_char(out, ' ');
    d->tokens++;
    feed(d, 0, piece, n, out);
    return pw_buf_status(out);
}

int pw_detok_end(struct pw_detok *d, struct pw_buf *out)
{
    if (d->t->spm.on)
        spm_bytes(&d->stages[0].held, true, out);
    for (size_t i = 0; i < d->t->n_dec; i++) {
        struct stage *g = &d->stages[i];
        if (d->t->dec[i].kind == DEC_BYTE_FALLBACK) {
            flush_bytes(d, i, out);
        } else if (d->t->dec[i].kind == DEC_BYTE_LEVEL && g->held.len) {
            struct pw_buf text = { 0 };
            pw_utf8_lossy(g->held.data, g->held.len, &text);
            feed(d, i + 1, text.data ? text.data : "", text.len, out);
            if (text.failed)
                out->failed = true;
            pw_buf_free(&text);
        }
    }
    restart(d);
    return pw_buf_status(out);
}

int pw_tokenizer_decode(const struct pw_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, struct pw_buf *out)
{
    struct pw_detok *d;
    int rc;
    PW_PASS(pw_detok_open(&d, t, flags));
    for (size_t i = 0; i < n; i++)
        PW_TRY_OUT(pw_detok_push(d, ids[i], out), "decoding token %zu", i);
    rc = pw_detok_end(d, out);
out:
    pw_detok_free(d);
    return rc;
}

int pw_token_bytes(const struct pw_tokenizer *t, int32_t id, struct pw_buf *out)
{
    struct pw_buf a = { 0 }, b = { 0 };
    size_t n;
    const char *piece = tok_vocab_piece(&t->vocab, id, &n);
    int value;
    PW_CHECK(piece, PW_E_FORMAT, "id %d is not in the vocabulary (%zu ids)", (int)id, t->vocab.n);
    if (t->spm.on && t->types[id] == PW_PIECE_BYTE)
        pw_buf_char(&a, (char)byte_token(piece, n));
    else if (t->spm.on && t->types[id] != PW_PIECE_CONTROL && t->types[id] != PW_PIECE_UNKNOWN)
        replace(&(struct tok_dec){ .find = "\xE2\x96\x81", .find_len = 3, .with = " ", .with_len = 1 }, piece, n, &a);
    else
        pw_buf_add(&a, piece, n);
    for (size_t i = 0; i < t->n_dec && !a.failed; i++) {
        const struct tok_dec *step = &t->dec[i];
        pw_buf_clear(&b);
        if (step->kind == DEC_BYTE_LEVEL)
            byte_level(a.data, a.len, &b);
        else if (step->kind == DEC_REPLACE)
            replace(step, a.data, a.len, &b);
        else if (step->kind == DEC_METASPACE)
            replace(&(struct tok_dec){ .find = step->find, .find_len = step->find_len, .with = " ", .with_len = 1 }, a.data, a.len, &b);
        else if (step->kind == DEC_BYTE_FALLBACK && (value = byte_token(a.data, a.len)) >= 0)
            pw_buf_char(&b, (char)value);
        else
            continue;
        struct pw_buf swap = a;
        a = b;
        b = swap;
    }
    if (a.failed || b.failed)
        out->failed = true;
    else
        pw_buf_add(out, a.data, a.len);
    pw_buf_free(&a);
    pw_buf_free(&b);
    return pw_buf_status(out);
}
