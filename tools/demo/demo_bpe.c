/* Learns the demo's tokenizer: byte-level BPE (Sennrich et al. 2016) over the words of a JSONL corpus, written as tokenizer.json.
 *
 * A word is an optional space before letters, or before other signs, or white space: what GPT-2's expression gives on this plain ASCII
 * text. Pairs are merged by count; among equals the first in byte order wins, so that the result is a function of the text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "tools/demo/demo.h"

enum { MAX_WORDS = 8192, MAX_WORD = 32, SPECIALS = 2 };
struct word { char text[MAX_WORD]; int len, n; int pieces[MAX_WORD]; int64_t count; };
static struct word words[MAX_WORDS];
static int n_words;
static struct piece { char bytes[MAX_WORD]; int len; } pieces[65536];

static void count_word(const char *s, int len)
{
    for (int i = 0; i < n_words; i++)
        if (words[i].len == len && memcmp(words[i].text, s, (size_t)len) == 0) {
            words[i].count++;
            return;
        }
    if (n_words == MAX_WORDS || len >= MAX_WORD) {
        fprintf(stderr, "demo: the corpus has too many words, or one too long\n");
        exit(1);
    }
    struct word *w = &words[n_words++];
    memcpy(w->text, s, (size_t)len);
    w->len = w->n = len;
    w->count = 1;
    for (int i = 0; i < len; i++)
        w->pieces[i] = (unsigned char)s[i];
}

static int class_of(char c)
{
    return c == ' ' || c == '\n' ? 0 : (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ? 1 : c >= '0' && c <= '9' ? 2 : 3;
}

static void count_words(const char *s, int n)
{
    for (int at = 0; at < n;) {
        int start = at, space = s[at] == ' ' && at + 1 < n && class_of(s[at + 1]) != 0;
        at += space;
        int kind = class_of(s[at]);
        while (at < n && class_of(s[at]) == kind)
            at++;
        count_word(s + start, at - start);
    }
}

/* The printable stand-ins of bytes in byte-level BPE files: printable bytes are themselves, the others follow from U+0100 on. */
static void byte_text(struct pw_buf *b, unsigned char c)
{
    int shifted = 256;
    bool plain = (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || c >= 174;
    for (int i = 0; i < c && !plain; i++)
        shifted += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    int code = plain ? c : shifted;
    if (code < 128)
        pw_buf_char(b, (char)code);
    else {
        pw_buf_char(b, (char)(0xC0 | code >> 6));
        pw_buf_char(b, (char)(0x80 | (code & 63)));
    }
}

static void piece_text(struct pw_buf *b, const struct piece *p)
{
    for (int i = 0; i < p->len; i++)
        byte_text(b, (unsigned char)p->bytes[i]);
    pw_buf_char(b, 0);
}

static int64_t pair_count(int left, int right)
{
    int64_t n = 0;
    for (int i = 0; i < n_words; i++)
        for (int k = 0; k + 1 < words[i].n; k++)
            n += words[i].pieces[k] == left && words[i].pieces[k + 1] == right ? words[i].count : 0;
    return n;
}

static int pair_order(int a, int b, int c, int d)
{
    int first = a - c;
    return first ? first : b - d;
}

static void merge(int left, int right, int into)
{
    for (int i = 0; i < n_words; i++) {
        struct word *w = &words[i];
        int out = 0;
        for (int k = 0; k < w->n; k++)
            if (k + 1 < w->n && w->pieces[k] == left && w->pieces[k + 1] == right)
                w->pieces[out++] = into, k++;
            else
                w->pieces[out++] = w->pieces[k];
        w->n = out;
    }
}

int pw_demo_tokenizer(FILE *in, int vocab)
{
    static const char *const special[SPECIALS] = {"<|start|>", "<|end|>"};
    static int merges[65536][2];
    char *line = NULL;
    size_t cap = 0;
    ssize_t len;
    int n_merges = 0;
    while ((len = getline(&line, &cap, in)) > 0) {
        struct pw_arena a;
        struct pw_value *v;
        pw_arena_init(&a);
        const struct pw_value *text = pw_json_parse(&a, line, (size_t)len, "corpus", &v) < 0 ? NULL : pw_get(v, "text");
        if (!text || text->kind != PW_STRING) {
            fprintf(stderr, "demo: a row of the corpus has no text\n");
            return 1;
        }
        count_words(text->s, (int)text->len);
        pw_arena_free(&a);
    }
    free(line);
    for (int i = 0; i < 256; i++)
        pieces[i] = (struct piece){{(char)i}, 1};
    int n = 256;
    while (n + SPECIALS < vocab) {
        int best_left = -1, best_right = -1;
        int64_t best = 1;
        for (int i = 0; i < n_words; i++)
            for (int k = 0; k + 1 < words[i].n; k++) {
                int l = words[i].pieces[k], r = words[i].pieces[k + 1];
                int64_t c = pair_count(l, r);
                if (c > best || (c == best && best_left >= 0 && pair_order(l, r, best_left, best_right) < 0))
                    best = c, best_left = l, best_right = r;
            }
        if (best_left < 0)
            break;
        pieces[n] = pieces[best_left];
        memcpy(pieces[n].bytes + pieces[n].len, pieces[best_right].bytes, (size_t)pieces[best_right].len);
        pieces[n].len += pieces[best_right].len;
        merges[n_merges][0] = best_left, merges[n_merges++][1] = best_right;
        merge(best_left, best_right, n++);
    }
    struct pw_json w = {0};
    struct pw_buf b = {0};
    pw_json_open(&w, NULL, '{');
    pw_json_str(&w, "version", "1.0");
    pw_json_null(&w, "truncation");
    pw_json_null(&w, "padding");
    pw_json_open(&w, "added_tokens", '[');
    for (int i = 0; i < SPECIALS; i++) {
        pw_json_open(&w, NULL, '{');
        pw_json_i64(&w, "id", i);
        pw_json_str(&w, "content", special[i]);
        pw_json_bool(&w, "single_word", false);
        pw_json_bool(&w, "lstrip", false);
        pw_json_bool(&w, "rstrip", false);
        pw_json_bool(&w, "normalized", false);
        pw_json_bool(&w, "special", true);
        pw_json_close(&w, '}');
    }
    pw_json_close(&w, ']');
    pw_json_null(&w, "normalizer");
    for (int i = 0; i < 2; i++) {
        pw_json_open(&w, i ? "decoder" : "pre_tokenizer", '{');
        pw_json_str(&w, "type", "ByteLevel");
        pw_json_bool(&w, "add_prefix_space", false);
        pw_json_bool(&w, "trim_offsets", true);
        pw_json_bool(&w, "use_regex", true);
        pw_json_close(&w, '}');
    }
    pw_json_open(&w, "post_processor", '{');
    pw_json_str(&w, "type", "TemplateProcessing");
    for (int pair = 0; pair < 2; pair++) {
        pw_json_open(&w, pair ? "pair" : "single", '[');
        for (int side = 0; side <= pair; side++) {
            pw_json_open(&w, NULL, '{');
            pw_json_open(&w, "SpecialToken", '{');
            pw_json_str(&w, "id", special[0]);
            pw_json_i64(&w, "type_id", side);
            pw_json_close(&w, '}');
            pw_json_close(&w, '}');
            pw_json_open(&w, NULL, '{');
            pw_json_open(&w, "Sequence", '{');
            pw_json_str(&w, "id", side ? "B" : "A");
            pw_json_i64(&w, "type_id", side);
            pw_json_close(&w, '}');
            pw_json_close(&w, '}');
        }
        pw_json_close(&w, ']');
    }
    pw_json_open(&w, "special_tokens", '{');
    pw_json_open(&w, special[0], '{');
    pw_json_str(&w, "id", special[0]);
    pw_json_open(&w, "ids", '[');
    pw_json_i64(&w, NULL, 0);
    pw_json_close(&w, ']');
    pw_json_open(&w, "tokens", '[');
    pw_json_str(&w, NULL, special[0]);
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    pw_json_close(&w, '}');
    pw_json_close(&w, '}');
    pw_json_open(&w, "model", '{');
    pw_json_str(&w, "type", "BPE");
    pw_json_null(&w, "dropout");
    pw_json_null(&w, "unk_token");
    pw_json_null(&w, "continuing_subword_prefix");
    pw_json_null(&w, "end_of_word_suffix");
    pw_json_bool(&w, "fuse_unk", false);
    pw_json_bool(&w, "byte_fallback", false);
    pw_json_bool(&w, "ignore_merges", false);
    pw_json_open(&w, "vocab", '{');
    for (int i = 0; i < SPECIALS; i++)
        pw_json_i64(&w, special[i], i);
    for (int i = 0; i < n; i++) {
        pw_buf_clear(&b);
        piece_text(&b, &pieces[i]);
        pw_json_i64(&w, b.data, SPECIALS + i);
    }
    pw_json_close(&w, '}');
    pw_json_open(&w, "merges", '[');
    for (int i = 0; i < n_merges; i++) {
        pw_buf_clear(&b);
        piece_text(&b, &pieces[merges[i][0]]);
        b.data[b.len - 1] = ' ';
        piece_text(&b, &pieces[merges[i][1]]);
        pw_json_str(&w, NULL, b.data);
    }
    pw_json_close(&w, ']');
    pw_json_close(&w, '}');
    pw_json_close(&w, '}');
    int rc = pw_json_status(&w);
    if (rc == 0)
        printf("%.*s\n", (int)w.out.len, w.out.data);
    pw_json_free(&w);
    pw_buf_free(&b);
    return rc < 0 || fflush(stdout) ? 1 : 0;
}
