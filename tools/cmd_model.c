/* pw model info: what a model is, and on which cards it can be trained (train/fits.h). */
#include <inttypes.h>
#include <string.h>

#include "data/checkpoint.h"
#include "tools/load.h"
#include "train/fits.h"

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

/* ---- what fits ------------------------------------------------------------------------------------------------------- */

enum { TOKENS = 2048 };

/* Where it is planned for: a card if there is one, else the emulation of one if that is there, since its plans are those of a card but for what driver and libraries hold; else the
 * processor. No reason to fail, and none to say that no card is used. */
static int plan_device(const struct pw_cmd *c, struct pw_dev **dev)
{
    static const char *const kinds[] = {"cuda", "simt"};
    if (strcmp(c->common->device, "auto") != 0)
        return pw_cmd_device(c, dev);
    for (int i = 0; i < 2; i++) {
        const struct pw_dev_options o = {.kind = kinds[i], .threads = (int)c->common->threads};
        if (pw_dev_open(dev, &o) == 0)
            return 0;
        pw_error_clear();
    }
    return pw_cmd_host_device(c, dev);
}

static void put_how(const struct pw_run_fit *f, struct pw_json *w)
{
    pw_json_i64(w, "blocks_kept", f->kept);
    pw_json_i64(w, "layers_on_host", f->stream);
    pw_json_bool(w, "embedding_on_host", f->embed_host);
    pw_json_bool(w, "optimizer_on_host", f->optim_host);
    pw_json_bool(w, "inputs_on_host", f->offload);
}

/* "8 (14 layers on the host), 12, 16": in GB, where it fits. */
static void put_sizes(const struct pw_fits_use *u, const int *cards, int n, struct pw_json *w, struct pw_buf *text)
{
    bool any = false;
    pw_json_open(w, "cards_gb", '[');
    for (int k = 0; k < n; k++) {
        const struct pw_run_fit *f = &u->sizes[k].how;
        if (!u->sizes[k].fits)
            continue;
        pw_json_i64(w, NULL, cards[k]);
        pw_buf_printf(text, "%s%d", any ? ", " : ": fits in ", cards[k]);
        if (f->stream)
            pw_buf_printf(text, " (%d layers on the host)", f->stream);
        else if (f->embed_host || f->optim_host || f->offload)
            pw_buf_printf(text, " (%s on the host)", f->offload ? "block inputs" : f->optim_host ? "optimizer" : "embedding");
        any = true;
    }
    pw_json_close(w, ']');
    pw_buf_printf(text, any ? " GB\n" : ": needs more than %d GB\n", cards[n - 1]);
    pw_json_open(w, "sizes", '[');
    for (int k = 0; k < n; k++) {
        pw_json_open(w, NULL, '{');
        pw_json_i64(w, "gb", cards[k]);
        pw_json_bool(w, "fits", u->sizes[k].fits);
        pw_json_i64(w, "peak_bytes", (int64_t)u->sizes[k].bytes);
        if (u->training)
            put_how(&u->sizes[k].how, w);
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
}

static int write_fits(struct pw_cmd *c, struct pw_json *w, struct pw_buf *text)
{
    static const int cards[] = {8, 12, 16, 24};
    enum { N = sizeof cards / sizeof *cards };
    struct pw_fits_use uses[PW_FITS_USES];
    struct pw_dev *dev = NULL;
    struct pw_arena arena;
    uint64_t limits[N];
    char bytes[32];
    int n = 0, rc = 0;
    pw_arena_init(&arena);
    for (int i = 0; i < N; i++)
        limits[i] = (uint64_t)cards[i] << 30;
    PW_PASS_OUT(plan_device(c, &dev));
    PW_PASS_OUT(pw_fits(uses, &n, &arena, dev, c->args.items[0], c->common->tokenizer, TOKENS, limits, N));
    pw_json_str(w, "planned_for", dev->kind);
    pw_json_open(w, "fits", '[');
    for (int i = 0; i < n; i++) {
        const struct pw_fits_use *u = &uses[i];
        pw_json_open(w, NULL, '{');
        pw_json_str(w, "use", u->name);
        if (u->why) {
            pw_json_str(w, "why", u->why);
            pw_buf_printf(text, "%-27s no: %s\n", u->name, u->why);
        } else {
            pw_format_bytes(bytes, u->bytes);
            pw_json_i64(w, "bytes", (int64_t)u->bytes);
            pw_buf_printf(text, "%-27s %s", u->name, bytes);
            put_sizes(u, cards, N, w, text);
        }
        pw_json_close(w, '}');
    }
    pw_json_close(w, ']');
    pw_buf_printf(text, "planned for  %s\n", dev->host ? "the processor (--device cpu), where the model's file counts too" :
                  strcmp(dev->kind, "simt") == 0 ? "a card, by its emulation; what driver and libraries take on yours comes on top" : dev->level);
out:
    pw_dev_close(dev);
    pw_arena_free(&arena);
    return rc;
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
    PW_PASS_OUT(write_fits(c, &w, &text));
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
     "What fits in 8, 12, 16 and 24 GB is planned as pw plan and --memory do it: an adapter of rank 16 trained on passes of 2048 tokens, with the base as it is stored or in\n"
     "nf4 with double quantisation, and one text of 2048 tokens. The bytes are those with nothing in host memory; where a card is too small for them, training moves there what\n"
     "it must, and what is said in brackets. Planned for the card that is there, else as for a card, else (or with --device cpu) for the processor.\n",
     NULL, 0, 1, 1, false, model_info},
    {NULL},
};
