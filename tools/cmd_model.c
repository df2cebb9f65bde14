/* pw model info: what a model is, and on which cards it can be trained. */
#include <inttypes.h>
#include <string.h>

#include "data/checkpoint.h"
#include "tools/load.h"

struct counted { const char *dtype; int64_t n; };

static size_t count_types(const struct pw_checkpoint *c, struct counted types[16])
{
    struct pw_stored t;
    size_t n = 0;
    for (size_t i = 0; pw_checkpoint_at(c, i, &t); i++) {
        size_t k = 0;
        while (k < n && strcmp(types[k].dtype, t.dtype) != 0)
            k++;
        if (k == n && n < 16)
            types[n++] = (struct counted){t.dtype, 0};
        if (k < 16)
            types[k].n++;
    }
    return n;
}

/* A rough estimate, and only that (`pw plan` counts exactly): the weights, and for one sequence of 2048 tokens the key/value rows in
 * 16 bit (inference) or the block inputs in 16 bit plus one block's activations and an adapter of rank 16 with its optimiser (training). */
struct estimate { const char *name; double bytes; };

static size_t estimates(const struct pw_model_config *m, struct estimate out[4])
{
    const double tokens = m->context < 2048 ? (double)m->context : 2048, d = m->hidden, kv = (double)m->kv_heads * m->head_dim, q = (double)m->heads * m->head_dim;
    const double outside = (double)m->vocab * d * (m->tied ? 1 : 2), blocks = (double)m->parameters - outside;
    const double four_bit = blocks * (0.5 + 1.0 / 64 + 4.0 / (64 * 256)) + 2 * outside, half = 2.0 * (double)m->parameters;
    const double cache = tokens * m->layers * 2 * kv * 2, overhead = 0.6e9;
    const double adapter = 16 * m->layers * (double)((d + q) * 2 + (d + kv) * 2 + (d + m->ffn) * 3) * 4 * 4;
    const double saved = tokens * d * 2 * m->layers + tokens * (6 * d + 4 * q + 4.0 * m->ffn) * 4;
    out[0] = (struct estimate){"run in 16 bit", half + cache + overhead};
    out[1] = (struct estimate){"run in nf4", four_bit + cache + overhead};
    out[2] = (struct estimate){"train an adapter on 16 bit", half + adapter + saved + overhead};
    out[3] = (struct estimate){"train an adapter on nf4", four_bit + adapter + saved + overhead};
    return 4;
}

static void write_fits(const struct pw_model_config *m, struct pw_json *w, struct pw_buf *text)
{
    static const int cards[] = {8, 12, 16, 24};
    struct estimate e[4];
    const size_t n = estimates(m, e);
    pw_json_open(w, "fits", '[');
    for (size_t i = 0; i < n; i++) {
        char bytes[32];
        pw_format_bytes(bytes, (uint64_t)e[i].bytes);
        pw_buf_printf(text, "%-27s about %s:", e[i].name, bytes);
        pw_json_open(w, NULL, '{');
        pw_json_str(w, "use", e[i].name);
        pw_json_i64(w, "bytes", (int64_t)e[i].bytes);
        pw_json_open(w, "cards_gb", '[');
        bool any = false;
        for (size_t k = 0; k < 4; k++)
            if (e[i].bytes <= cards[k] * 1073741824.0 * 0.95) {
                pw_json_i64(w, NULL, cards[k]);
                pw_buf_printf(text, "%s%d", any ? ", " : " fits in ", cards[k]);
                any = true;
            }
        pw_buf_str(text, any ? " GB\n" : " needs more than 24 GB\n");
        pw_json_close(w, ']');
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
}

static void id_or_null(struct pw_json *w, const char *key, int32_t id)
{
    if (id >= 0)
        pw_json_i64(w, key, id);
    else
        pw_json_null(w, key);
}

/* A few are shown; models with hundreds of reserved ones exist, and --json has all. */
static void write_special(const struct pw_tokenizer *t, struct pw_buf *text)
{
    int shown = 0, all = 0;
    size_t stops;
    const int32_t *ids = pw_tokenizer_stops(t, &stops);
    pw_buf_str(text, "special     ");
    for (int32_t i = 0; i < pw_tokenizer_vocab(t); i++)
        if (pw_tokenizer_is_special(t, i) && pw_tokenizer_piece(t, i)) {
            if (all++ < 12)
                pw_buf_printf(text, " %s %d", pw_tokenizer_piece(t, i), (int)i), shown++;
        }
    if (all > shown)
        pw_buf_printf(text, " and %d more", all - shown);
    pw_buf_str(text, all ? "\n" : " none\n");
    pw_buf_printf(text, "stops       ");
    for (size_t i = 0; i < stops; i++)
        pw_buf_printf(text, " %d", (int)ids[i]);
    pw_buf_printf(text, "%s; BOS is %s\n", stops ? "" : " none", pw_tokenizer_adds_bos(t) ? "added to texts" : "not added to texts");
}

static void write_tokenizer(const struct pw_tokenizer *t, struct pw_json *w, struct pw_buf *text)
{
    if (!t) {
        pw_json_null(w, "tokenizer");
        pw_buf_str(text, "tokenizer    none\n");
        return;
    }
    pw_json_open(w, "tokenizer", '{');
    pw_json_str(w, "kind", pw_tokenizer_kind(t));
    pw_json_i64(w, "vocab", pw_tokenizer_vocab(t));
    id_or_null(w, "bos", pw_tokenizer_bos(t));
    id_or_null(w, "eos", pw_tokenizer_eos(t));
    id_or_null(w, "pad", pw_tokenizer_pad(t));
    pw_json_bool(w, "adds_bos", pw_tokenizer_adds_bos(t));
    pw_json_open(w, "special", '[');
    for (int32_t i = 0; i < pw_tokenizer_vocab(t); i++)
        if (pw_tokenizer_is_special(t, i) && pw_tokenizer_piece(t, i)) {
            pw_json_open(w, NULL, '{');
            pw_json_i64(w, "id", i);
            pw_json_str(w, "text", pw_tokenizer_piece(t, i));
            pw_json_close(w, '}');
        }
    pw_json_close(w, ']');
    size_t stops;
    const int32_t *ids = pw_tokenizer_stops(t, &stops);
    pw_json_open(w, "stops", '[');
    for (size_t i = 0; i < stops; i++)
        pw_json_i64(w, NULL, ids[i]);
    pw_json_close(w, ']');
    pw_json_close(w, '}');
    pw_buf_printf(text, "tokenizer    %s, %d pieces, bos %d, eos %d, pad %d\n", pw_tokenizer_kind(t), pw_tokenizer_vocab(t), pw_tokenizer_bos(t),
                  pw_tokenizer_eos(t), pw_tokenizer_pad(t));
    write_special(t, text);
}

static const char *const scalings[] = {"none", "linear", "llama3", "dynamic", "yarn", "longrope"};

static int model_info(struct pw_cmd *c)
{
    const struct pw_checkpoint_options copt = {.tokenizer = c->common->tokenizer};
    struct pw_checkpoint *k = NULL;
    struct pw_tokenizer *t = NULL;
    struct pw_json w = {0};
    struct pw_buf text = {0};
    struct counted types[16];
    char bytes[32];
    int rc = 0;
    PW_PASS_OUT(pw_checkpoint_open(&k, c->args.items[0], &copt));
    if (pw_checkpoint_tokenizer(k))
        PW_PASS_OUT(pw_load_tokenizer(&t, c, c->args.items[0]));
    const struct pw_model_config *m = pw_checkpoint_config(k);
    pw_json_begin(&w);
    pw_json_str(&w, "family", m->family);
    pw_json_str(&w, "architecture", m->whole[0] ? m->whole : m->architecture);
    if (pw_checkpoint_left_out(k))
        pw_json_str(&w, "left_out", pw_checkpoint_left_out(k));
    pw_json_str(&w, "format", pw_checkpoint_format(k));
    pw_json_i64(&w, "parameters", m->parameters);
    pw_json_i64(&w, "bytes", (int64_t)pw_checkpoint_bytes(k));
    pw_json_i64(&w, "layers", m->layers);
    pw_json_i64(&w, "hidden", m->hidden);
    pw_json_i64(&w, "heads", m->heads);
    pw_json_i64(&w, "kv_heads", m->kv_heads);
    pw_json_i64(&w, "head_dim", m->head_dim);
    pw_json_i64(&w, "ffn", m->ffn);
    if (m->experts) {
        pw_json_i64(&w, "experts", m->experts);
        pw_json_i64(&w, "experts_chosen", m->experts_chosen);
        pw_json_i64(&w, "expert_ffn", m->expert_ffn);
    }
    pw_json_i64(&w, "vocab", m->vocab);
    pw_json_i64(&w, "context", m->context);
    pw_json_bool(&w, "tied", m->tied);
    pw_json_i64(&w, "window", m->window);
    pw_json_str(&w, "rope_scaling", scalings[m->rope_scaling]);
    pw_json_f64(&w, "rope_theta", m->rope_theta);
    pw_format_bytes(bytes, pw_checkpoint_bytes(k));
    char experts[64] = "", context[96] = "";
    if (m->window)
        snprintf(context, sizeof context, ", sliding window %" PRId64, m->window);
    if (m->rope_scaling != PW_ROPE_PLAIN)
        snprintf(context + strlen(context), sizeof context - strlen(context), ", rope scaling %s", scalings[m->rope_scaling]);
    if (m->experts)
        snprintf(experts, sizeof experts, ", %d of %d experts, ffn %d", m->experts_chosen, m->experts, m->expert_ffn);
    pw_buf_printf(&text, "family       %s (%s), %s%s%s%s%s\nparameters   %" PRId64 ", %s\nshape        %d layers, hidden %d, heads %d of %d, key/value heads %d, ffn %d%s\n"
                         "vocabulary   %" PRId64 "%s\ncontext      %" PRId64 "%s\ntensors     ",
                  m->family, m->architecture, pw_checkpoint_format(k), m->whole[0] ? "; the text of a " : "", m->whole, pw_checkpoint_left_out(k) ? ", without " : "",
                  pw_checkpoint_left_out(k) ? pw_checkpoint_left_out(k) : "", m->parameters, bytes, m->layers, m->hidden, m->heads, m->head_dim, m->kv_heads, m->ffn, experts,
                  m->vocab, m->tied ? ", head tied to the embedding" : "", m->context, context);
    const size_t n = count_types(k, types);
    pw_json_open(&w, "types", '{');
    for (size_t i = 0; i < n; i++) {
        pw_json_i64(&w, types[i].dtype, types[i].n);
        pw_buf_printf(&text, " %s %" PRId64, types[i].dtype, types[i].n);
    }
    pw_json_close(&w, '}');
    pw_buf_char(&text, '\n');
    write_tokenizer(t, &w, &text);
    const bool has_template = t && pw_tokenizer_template(t, NULL);
    pw_json_bool(&w, "has_template", has_template);
    pw_buf_printf(&text, "template     %s\n", has_template ? "yes" : "no");
    write_fits(m, &w, &text);
    if (c->common->json)
        rc = pw_json_finish(c, &w);
    else {
        PW_PASS_OUT(pw_buf_status(&text));
        pw_buf_add(c->out, text.data, text.len);
    }
out:
    pw_json_free(&w);
    pw_buf_free(&text);
    pw_tokenizer_free(t);
    pw_checkpoint_close(k);
    return rc;
}

const struct pw_command pw_commands_model[] = {
    {"model info", "MODEL", "family, size, types, tokenizer, and which cards it fits",
     "The list of cards is an estimate from the shape alone (16-bit activations, 2048 tokens, rank 16); pw plan counts exactly.\n",
     NULL, 0, 1, 1, false, model_info},
    {NULL},
};
