/* tiktoken ranks: lines of "base64 rank". A token's rank is its id and the order in which joined bytes are merged; a word that
 * is a token is that token without merging. Pieces are kept in the alphabet of byte-level pieces, so that all else is shared.
 *
 * The file knows neither its pre-split nor special tokens: both are given. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "data/tok_parts.h"

enum { TOKEN_BYTES = 1 << 16 };

static int digit64(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= '0' && c <= '9' ? c - '0' + 52 : c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool tok_is_tiktoken(const uint8_t *b, size_t n)
{
    size_t i = 0, k;
    while (i < n && i < 256 && (digit64(b[i]) >= 0 || b[i] == '='))
        i++;
    if (i == 0 || i % 4 != 0 || i >= n || b[i] != ' ')
        return false;
    for (k = i + 1; k < n && k < i + 12 && b[k] >= '0' && b[k] <= '9';)
        k++;
    return k > i + 1 && (k == n || b[k] == '\n' || b[k] == '\r');
}

int tok_base64(const uint8_t *s, size_t n, struct pw_buf *out)
{
    size_t pad = n && s[n - 1] == '=' ? n > 1 && s[n - 2] == '=' ? 2 : 1 : 0;
    PW_CHECK(n && n % 4 == 0, PW_E_FORMAT, "base64 of %zu characters", n);
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits = 0;
        size_t keep = i + 4 == n ? 3 - pad : 3;
        for (size_t k = 0; k < 4; k++) {
            int d = i + k >= n - pad ? 0 : digit64(s[i + k]);
            PW_CHECK(d >= 0, PW_E_FORMAT, "character %zu is not base64", i + k + 1);
            bits = bits << 6 | (uint32_t)d;
        }
        PW_CHECK((bits & ((1u << 8 * (3 - keep)) - 1)) == 0, PW_E_FORMAT, "base64 with bits left over");
        for (size_t k = 0; k < keep; k++)
            pw_buf_char(out, (char)(bits >> (16 - 8 * k)));
    }
    return pw_buf_status(out);
}

struct entry { int64_t id; size_t at, len; };
struct ranks { struct entry *e; size_t n, cap; struct pw_buf text, bytes; int64_t top; }; /* text: byte-level characters */

static int read_ranks(struct ranks *r, const uint8_t *b, size_t n, const char *where)
{
    size_t line = 0;
    for (size_t at = 0; at < n;) {
        const uint8_t *nl = memchr(b + at, '\n', n - at);
        size_t len = nl ? (size_t)(nl - (b + at)) : n - at, start = at, begin = r->text.len;
        int64_t id = 0;
        line++;
        at += len + 1;
        if (len && b[start + len - 1] == '\r')
            len--;
        if (len == 0)
            continue;
        const uint8_t *space = memchr(b + start, ' ', len);
        PW_CHECK(space, PW_E_FORMAT, "%s: line %zu: expected base64, a space and a rank", where, line);
        size_t code = (size_t)(space - (b + start));
        PW_CHECK(code <= TOKEN_BYTES, PW_E_FORMAT, "%s: line %zu: a token of %zu base64 characters (limit %d)", where, line, code, TOKEN_BYTES);
        pw_buf_clear(&r->bytes);
        PW_TRY(tok_base64(b + start, code, &r->bytes), "%s: line %zu", where, line);
        for (size_t i = 0; i < r->bytes.len; i++) {
            char c[4];
            pw_buf_add(&r->text, c, pw_utf8_put(tok_byte_char((unsigned char)r->bytes.data[i]), c));
        }
        PW_PASS(pw_buf_status(&r->text));
        PW_CHECK(len - code > 1 && len - code <= 9, PW_E_FORMAT, "%s: line %zu: expected a rank after the space", where, line);
        for (size_t i = code + 1; i < len; i++) {
            PW_CHECK(b[start + i] >= '0' && b[start + i] <= '9', PW_E_FORMAT, "%s: line %zu: the rank is no number", where, line);
            id = id * 10 + (b[start + i] - '0');
        }
        PW_CHECK(id < TOK_ID_LIMIT, PW_E_FORMAT, "%s: line %zu: rank %lld is too large (limit %d)", where, line, (long long)id, TOK_ID_LIMIT - 1);
        PW_PASS(tok_grow((void **)&r->e, &r->cap, r->n + 1, sizeof *r->e));
        r->e[r->n++] = (struct entry){ id, begin, r->text.len - begin };
        r->top = id > r->top ? id : r->top;
    }
    PW_CHECK(r->n, PW_E_FORMAT, "%s: no ranks", where);
    return 0;
}

/* Every cut of a token into two tokens is a merge of the token's rank. */
static int all_merges(struct pw_tokenizer *t)
{
    PW_PASS(tok_pairs_open(&t->merges, 4 * t->vocab.n));
    for (int32_t id = 0; id < t->model_vocab; id++) {
        size_t n;
        const char *s = tok_vocab_piece(&t->vocab, id, &n);
        for (size_t k = 1; s && k < n; k++) {
            if (((unsigned char)s[k] & 0xC0) == 0x80)
                continue;
            int32_t left = tok_vocab_find(&t->vocab, s, k), right = left < 0 ? -1 : tok_vocab_find(&t->vocab, s + k, n - k);
            if (right >= 0)
                PW_PASS(tok_pairs_put_growing(&t->merges, left, right, (uint32_t)id, id));
        }
    }
    return 0;
}

static int fill(struct pw_tokenizer *t, const struct ranks *r, const char *pre, const struct tok_extra *extra, const char *where)
{
    int64_t top = r->top;
    char c[4];
    for (size_t i = 0; extra && i < extra->n; i++)
        top = extra->added[i].id > top ? extra->added[i].id : top;
    t->model_vocab = (int32_t)r->top + 1;
    PW_PASS(tok_vocab_open(&t->vocab, (size_t)top + 1));
    t->special = pw_arena_array(&t->arena, (size_t)top + 1, sizeof *t->special);
    t->added = pw_arena_array(&t->arena, extra ? extra->n + 1 : 1, sizeof *t->added);
    PW_CHECK(t->special && t->added, PW_E_NOMEM, "%s: no memory for %zu ranks", where, r->n);
    for (size_t i = 0; i < r->n; i++)
        PW_PASS(tok_vocab_add(&t->vocab, r->e[i].id, r->text.data + r->e[i].at, r->e[i].len, where));
    for (int b = 0; b < 256; b++)
        PW_CHECK(tok_vocab_find(&t->vocab, c, pw_utf8_put(tok_byte_char((unsigned char)b), c)) >= 0, PW_E_FORMAT, "%s: byte 0x%02x has no rank", where, (unsigned)b);
    PW_PASS(tok_pre_set(t, pre, where));
    t->ignore_merges = true;
    PW_PASS(all_merges(t));
    PW_PASS(tok_bpe_ready(t));
    for (size_t i = 0; extra && i < extra->n; i++) {
        const struct tok_added *a = &extra->added[i];
        PW_CHECK(tok_vocab_piece(&t->vocab, a->id, NULL) == NULL, PW_E_FORMAT, "%s: special token \"%s\": id %d is a rank already", where, a->text, (int)a->id);
        PW_PASS(tok_add_token(t, a, where));
    }
    t->kind = "BPE byte-level";
    return tok_added_ready(t);
}

int tok_from_tiktoken(struct pw_tokenizer *t, const uint8_t *bytes, size_t n, const char *pre, const struct tok_extra *extra, const char *where)
{
    struct ranks r = { .top = -1 };
    struct pw_sha256 h;
    int rc = read_ranks(&r, bytes, n, where);
    if (rc == 0)
        rc = fill(t, &r, pre, extra, where);
    pw_free(r.e);
    pw_buf_free(&r.text);
    pw_buf_free(&r.bytes);
    pw_sha256_init(&h);
    pw_sha256_add(&h, bytes, n);
    pw_sha256_add(&h, pre, strlen(pre));
    for (size_t i = 0; extra && i < extra->n; i++) {
        pw_sha256_add(&h, extra->added[i].text, extra->added[i].len);
        pw_sha256_add(&h, &extra->added[i].id, sizeof extra->added[i].id);
    }
    pw_sha256_hex(&h, t->hash);
    return rc;
}
