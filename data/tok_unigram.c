/* Unigram: the cut of a text into pieces with the highest sum of scores, left to right over a trie of the pieces' bytes.
 *
 * The two implementations in use differ in their arithmetic, which decides ties: sentencepiece adds in float, tokenizers in
 * double. Both compare with >, so the first of equals stays. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

static const double unknown_penalty = 10;
/* What sentencepiece 0.2.3 adds for each byte of a user-defined piece but the first, whatever the other scores: found by its choices among ties. */
static const float user_bonus = 0.1f;

void tok_unigram_free(struct tok_unigram *u)
{
    tok_pairs_free(&u->edges);
    pw_free(u->piece);
    *u = (struct tok_unigram){ 0 };
}

static int new_node(struct tok_unigram *u, int32_t *node)
{
    PW_PASS(tok_grow((void **)&u->piece, &u->cap, u->n_nodes + 1, sizeof *u->piece));
    *node = (int32_t)u->n_nodes;
    u->piece[u->n_nodes++] = -1;
    return 0;
}

static bool in_trie(const struct pw_tokenizer *t, int32_t id)
{
    return !t->types || t->types[id] == PW_PIECE_NORMAL || t->types[id] == PW_PIECE_USER;
}

int tok_unigram_ready(struct pw_tokenizer *t)
{
    struct tok_unigram *u = &t->unigram;
    double low = DBL_MAX;
    int32_t node;
    PW_PASS(tok_pairs_open(&u->edges, 4 * (size_t)t->model_vocab));
    PW_PASS(new_node(u, &node));
    for (int32_t id = 0; id < t->model_vocab; id++) {
        size_t n;
        const char *s = tok_vocab_piece(&t->vocab, id, &n);
        if (!s)
            continue;
        if (!t->types || t->types[id] == PW_PIECE_NORMAL)
            low = u->score[id] < low ? u->score[id] : low;
        node = 0;
        for (size_t i = 0; in_trie(t, id) && i < n; i++) {
            size_t slot = tok_pairs_find(&u->edges, node, (unsigned char)s[i]);
            if (slot != (size_t)-1) {
                node = u->edges.id[slot];
                continue;
            }
            int32_t child;
            PW_CHECK(u->n_nodes < INT32_MAX, PW_E_UNSUPPORTED, "pieces of more than 2^31 bytes");
            PW_PASS(new_node(u, &child));
            PW_PASS(tok_pairs_put_growing(&u->edges, node, (unsigned char)s[i], 0, child));
            node = child;
        }
        if (node)
            u->piece[node] = id;
    }
    u->unk_score = u->sentencepiece ? (float)low - (float)unknown_penalty : low - unknown_penalty;
    u->on = true;
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        char name[6] = { '<', '0', 'x', hex[b >> 4], hex[b & 15], '>' };
        t->byte_id[b] = tok_vocab_find(&t->vocab, name, 6);
        t->byte_level_id[b] = -1;
    }
    return 0;
}

static void offer(const struct tok_unigram *u, struct tok_best *to, size_t to_place, double score, double before, int32_t id, size_t start)
{
    double sum = u->sentencepiece ? (double)((float)score + (float)before) : score + before;
    if (to->start != to_place && !(sum > to->score))
        return;
    to->score = sum;
    to->id = id;
    to->start = (uint32_t)start;
}

static void forward(const struct pw_tokenizer *t, const struct tok_view *v, struct tok_best *best)
{
    const struct tok_unigram *u = &t->unigram;
    for (size_t i = 0; i <= v->n; i++)
        best[i] = (struct tok_best){ 0, -1, (uint32_t)i };
    for (size_t at = 0, len; at < v->n; at += len) {
        uint32_t cp;
        bool single = false;
        int32_t node = 0;
        len = pw_utf8_get(v->s + at, v->n - at, &cp);
        for (size_t i = at; i < v->n; i++) {
            size_t slot = tok_pairs_find(&u->edges, node, (unsigned char)v->s[i]);
            if (slot == (size_t)-1)
                break;
            node = u->edges.id[slot];
            int32_t id = u->piece[node];
            if (id < 0)
                continue;
            size_t n = i + 1 - at;
            bool user = t->types && t->types[id] == PW_PIECE_USER;
            double score = user ? (double)((float)n * user_bonus - user_bonus) : u->score[id];
            offer(u, &best[i + 1], i + 1, score, best[at].score, id, at);
            single = single || n == len;
        }
        if (!single)
            offer(u, &best[at + len], at + len, u->unk_score, best[at].score, -1, at);
    }
}

/* tokenizers joins a run of unknown characters before it looks for byte pieces; sentencepiece joins what stays unknown. */
static int emit(const struct pw_tokenizer *t, const struct tok_view *v, int32_t id, size_t start, size_t end, struct pw_tokens *out)
{
    if (id < 0 && !t->types) {
        id = tok_vocab_find(&t->vocab, v->s + start, end - start);
        if (id >= t->model_vocab)
            id = -1;
        if (id >= 0)
            return tok_push(out, id, tok_start(v, start), tok_end(v, end - 1));
    }
    return tok_emit(t, v, id < 0 ? (int32_t)t->vocab.n : id, start, end - start, out);
}

int tok_unigram_word(const struct pw_tokenizer *t, const struct tok_view *v, struct pw_tokens *out)
{
    struct pw_tok_work *w = out->work;
    size_t n = 0;
    if (v->n == 0)
        return 0;
    PW_PASS(tok_grow((void **)&w->best, &w->best_cap, v->n + 1, sizeof *w->best));
    forward(t, v, w->best);
    /* The path backwards; the places it visits are linked forward through `id` of a second pass over the same array. */
    for (size_t end = v->n; end > 0; end = w->best[end].start)
        n++;
    PW_PASS(tok_grow((void **)&w->symbols, &w->symbols_cap, n, sizeof *w->symbols));
    size_t k = n;
    for (size_t end = v->n; end > 0; end = w->best[end].start)
        w->symbols[--k] = (struct tok_symbol){ w->best[end].id, w->best[end].start, (uint32_t)(end - w->best[end].start), 0, 0 };
    for (size_t i = 0; i < n; i++) {
        const struct tok_symbol *y = &w->symbols[i];
        size_t end = y->start + y->len;
        bool unknown = y->id < 0 || (!t->types && y->id == t->model_unk);
        while (unknown && !t->types && t->fuse_unk && i + 1 < n && (w->symbols[i + 1].id < 0 || w->symbols[i + 1].id == t->model_unk)) {
            i++;
            end = w->symbols[i].start + w->symbols[i].len;
        }
        PW_PASS(emit(t, v, unknown ? -1 : y->id, y->start, end, out));
    }
    return 0;
}
