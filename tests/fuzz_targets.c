/* The fuzz targets (see the header). Parsers that read files get one in memory-backed storage, rewritten each time. */
#include "tests/fuzz_targets.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "data/archive.h"
#include "data/checkpoint.h"
#include "data/csv.h"
#include "data/dataset.h"
#include "data/gguf.h"
#include "data/go_template.h"
#include "data/h5.h"
#include "data/jinja.h"
#include "data/model_config.h"
#include "data/safetensors.h"
#include "data/tokenizer.h"
#include "eval/contest.h"
#include "kernels/choices.h"
#include "lora/gguf_lora.h"
#include "lora/mlx.h"
#include "lora/peft.h"
#include "train/recipe.h"

static char folder[64];

static void remove_folder(void)
{
    pw_dir_remove(folder);
}

/* The bytes as a file of this name in the target's own folder. */
static const char *as_file(const char *name, const uint8_t *bytes, size_t n)
{
    static char path[128];
    if (!folder[0]) {
        strcpy(folder, access("/dev/shm", W_OK) == 0 ? "/dev/shm/pw-fuzz-XXXXXX" : "/tmp/pw-fuzz-XXXXXX");
        if (!mkdtemp(folder))
            abort();
        atexit(remove_folder);
    }
    snprintf(path, sizeof path, "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, bytes, n) != (ssize_t)n || close(fd) != 0)
        abort();
    return path;
}

static void run_json(const uint8_t *bytes, size_t n)
{
    struct pw_arena a;
    struct pw_value *v;
    pw_arena_init(&a);
    if (pw_json_parse(&a, (const char *)bytes, n, "fuzz", &v) == 0) {
        struct pw_json w = {0};
        pw_json_value(&w, NULL, v);
        pw_json_free(&w);
    }
    pw_arena_free(&a);
}

static void run_yaml(const uint8_t *bytes, size_t n)
{
    struct pw_arena a;
    struct pw_value *v;
    pw_arena_init(&a);
    pw_yaml_parse(&a, (const char *)bytes, n, "fuzz", &v);
    pw_arena_free(&a);
}

static void run_csv(const uint8_t *bytes, size_t n)
{
    struct pw_csv c;
    bool more = true;
    pw_csv_open(&c, (const char *)bytes, n, "fuzz", ',');
    if (pw_csv_header(&c) == 0)
        for (int64_t rows = 0; more && rows <= (int64_t)n; rows++)
            if (pw_csv_next(&c, &more) < 0)
                more = true;
    pw_csv_close(&c);
}

static void run_safetensors(const uint8_t *bytes, size_t n)
{
    struct pw_safetensors s;
    uint64_t sum = 0;
    if (pw_safetensors_open(&s, as_file("x.safetensors", bytes, n)) == 0) {
        for (size_t i = 0; i < s.n; i++)        /* every byte that a tensor claims can be read */
            for (size_t k = 0; k < s.tensors[i].bytes; k++)
                sum += s.tensors[i].data[k];
        pw_safetensors_close(&s);
    }
    if (sum == 1)
        fputc(' ', stderr);
}

static void run_gguf(const uint8_t *bytes, size_t n)
{
    struct pw_gguf g;
    uint64_t sum = 0;
    if (pw_gguf_open(&g, as_file("x.gguf", bytes, n)) == 0) {
        for (size_t i = 0; i < g.n_tensors; i++)
            for (size_t k = 0; k < g.tensors[i].bytes; k++)
                sum += g.tensors[i].data[k];
        for (size_t i = 0; i < g.n_pairs; i++) {
            const struct pw_gguf_pair *p = &g.pairs[i];
            const char *s;
            size_t len;
            if (p->of == PW_GGUF_STRING) {
                const uint8_t *at = p->data;
                for (uint64_t k = 0; k < p->n; k++) {
                    at = pw_gguf_string(at, &s, &len);
                    sum += len ? (uint8_t)s[len - 1] : 0;
                }
            } else
                for (const uint8_t *at = p->data; at < p->end; at++)
                    sum += *at;
        }
        pw_gguf_close(&g);
    }
    if (sum == 1)
        fputc(' ', stderr);
}

static void run_config(const uint8_t *bytes, size_t n)
{
    struct pw_arena a;
    struct pw_value *v;
    struct pw_model_config c;
    pw_arena_init(&a);
    if (pw_json_parse(&a, (const char *)bytes, n, "config.json", &v) == 0 && pw_model_config_parse(&c, v, "config.json") == 0) {
        struct pw_json w = {0};
        pw_model_config_count(&c);
        pw_json_open(&w, NULL, '{');
        pw_model_config_write(&c, "float32", &w);
        pw_json_close(&w, '}');
        pw_json_free(&w);
        for (int i = 0; i < c.layers; i++)
            pw_model_config_local(&c, i);
    }
    pw_arena_free(&a);
}

static void use_tokenizer(struct pw_tokenizer *t)
{
    static const char text[] = "Hello,  world! <|end|> \xE2\x96\x81 123\n";
    struct pw_tokens tokens = {0};
    struct pw_buf out = {0};
    if (pw_tokenizer_encode(t, text, sizeof text - 1, PW_TOK_DEFAULT, &tokens) == 0)
        pw_tokenizer_decode(t, tokens.ids, tokens.n, 0, &out);
    pw_tokens_free(&tokens);
    pw_buf_free(&out);
}

/* As a model, then as a tokenizer. */
static void run_gguf_model(const uint8_t *bytes, size_t n)
{
    const char *path = as_file("model.gguf", bytes, n);
    struct pw_checkpoint *c;
    struct pw_tokenizer *t;
    struct pw_stored s;
    char hash[65];
    if (pw_checkpoint_open(&c, path, NULL) == 0) {
        const struct pw_model_config *m = pw_checkpoint_config(c);
        struct pw_weight w;
        for (size_t i = 0; pw_checkpoint_at(c, i, &s); i++)
            if (s.ndim == 2)
                pw_checkpoint_weight(c, s.name, s.shape[0], s.shape[1], &w);
        pw_model_config_count(m);
        pw_checkpoint_hash(c, hash);
        pw_checkpoint_all_used(c);
        pw_checkpoint_close(c);
    }
    if (pw_tokenizer_load(&t, path) == 0) {
        use_tokenizer(t);
        pw_tokenizer_free(t);
    }
}

static void run_tokenizer(const uint8_t *bytes, size_t n)
{
    struct pw_tokenizer *t;
    if (pw_tokenizer_load(&t, as_file("tokenizer.json", bytes, n)) == 0) {
        use_tokenizer(t);
        pw_tokenizer_free(t);
    }
}

static void run_tokenizer_llama2c(const uint8_t *bytes, size_t n)
{
    struct pw_tokenizer *t;
    if (n > 0 && pw_tokenizer_load_llama2c(&t, as_file("tok.bin", bytes + 1, n - 1), 256 + bytes[0]) == 0) {
        use_tokenizer(t);
        pw_tokenizer_free(t);
    }
}

static void run_tokenizer_model(const uint8_t *bytes, size_t n)
{
    struct pw_tokenizer *t;
    if (pw_tokenizer_load(&t, as_file("tokenizer.model", bytes, n)) == 0) {
        use_tokenizer(t);
        pw_tokenizer_free(t);
    }
}

static void run_tokenizer_ranks(const uint8_t *bytes, size_t n)
{
    static const char *const pre[] = {"gpt-2", "gpt-4o", "deepseek-llm", "qwen2"};
    struct pw_tokenizer *t;
    if (n > 0 && pw_tokenizer_load_as(&t, as_file("x.tiktoken", bytes + 1, n - 1), pre[bytes[0] & 3]) == 0) {
        use_tokenizer(t);
        pw_tokenizer_free(t);
    }
}

static void run_jinja(const uint8_t *bytes, size_t n)
{
    static const char context[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":\" yes \"}],"
                                  "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_generation_prompt\":true,\"n\":3,\"x\":[1,2.5,\"a\",null,{\"k\":[]}]}";
    struct pw_jinja_limits limits = {.steps = 20000, .now = 1, .output = 1 << 16, .memory = 1 << 22};
    struct pw_jinja *t;
    struct pw_arena a;
    struct pw_value *vars;
    struct pw_buf out = {0};
    struct pw_spans spans = {0};
    pw_arena_init(&a);
    if (pw_json_parse(&a, context, sizeof context - 1, "context", &vars) == 0 && pw_jinja_parse(&t, (const char *)bytes, n, "fuzz") == 0) {
        pw_jinja_render(t, vars, &limits, &out, &spans);
        pw_jinja_free(t);
    }
    pw_buf_free(&out);
    pw_spans_free(&spans);
    pw_arena_free(&a);
}

/* The form for Ollama, derived from the bytes as the Jinja template; what was derived is rendered. */
static void run_go_template(const uint8_t *bytes, size_t n)
{
    static const char *const contents[] = {"be brief", "hi", "yes", ""};
    struct pw_arena a;
    struct pw_chat *c;
    struct pw_go_template g;
    struct pw_buf out = {0};
    pw_arena_init(&a);
    char *source = pw_arena_strndup(&a, (const char *)bytes, n);
    if (source && pw_chat_open(&c, source, "fuzz", "<s>", "</s>") == 0) {
        if (pw_go_template(&a, c, "<s>", &g) == 0 && g.text)
            pw_go_template_render(&g, "SUAU", contents, true, &out);
        pw_chat_close(c);
    }
    pw_buf_free(&out);
    pw_arena_free(&a);
}

static void run_archive(const uint8_t *bytes, size_t n)
{
    struct pw_arena a;
    struct pw_archive_file *files;
    size_t count;
    pw_arena_init(&a);
    pw_archive_read(as_file("x.tar.zst", bytes, n), 1 << 22, &a, &files, &count);
    pw_arena_free(&a);
}

static void run_recipe(const uint8_t *bytes, size_t n)
{
    struct pw_recipe r;
    struct pw_buf out = {0};
    if (pw_recipe_parse(&r, (const char *)bytes, n, "fuzz.yaml", NULL, 0) == 0)
        pw_recipe_write(&r, &out);
    pw_recipe_free(&r);
    pw_buf_free(&out);
}

/* Rows of a data set, in every form; the tokenizer is the repository's own. */
static void run_rows(const uint8_t *bytes, size_t n)
{
    static struct pw_tokenizer *t;
    struct pw_dataset *d;
    if (!t && pw_tokenizer_load(&t, "tools/demo/base/tokenizer.json") < 0)
        return;
    struct pw_data_file file = {.path = as_file("rows.jsonl", bytes, n)};
    struct pw_dataset_options o = {.tokenizer = t, .max_length = 64, .keep_going = true, .now = 1,
                                   .chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"};
    if (pw_dataset_load(&d, &file, 1, &o) == 0)
        pw_dataset_free(d);
}

static void run_adapter(const uint8_t *bytes, size_t n)
{
    static const uint8_t empty[] = "\x10\0\0\0\0\0\0\0{              }";
    struct pw_adapter a = {0};
    as_file("adapter_model.safetensors", empty, sizeof empty - 1);
    as_file("adapter_config.json", bytes, n);
    if (pw_peft_load(&a, folder, NULL) == 0)
        pw_adapter_free(&a);
}

static const struct pw_model_config small_model = {.family = "llama", .layers = 2, .hidden = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .ffn = 12, .vocab = 10,
                                                   .rope_interleaved = true};

/* With a model, and without. */
static void run_gguf_lora(const uint8_t *bytes, size_t n)
{
    const char *path = as_file("lora.gguf", bytes, n);
    struct pw_adapter a = {0};
    if (pw_gguf_lora_load(&a, path, &small_model) == 0)
        pw_adapter_free(&a);
    if (pw_gguf_lora_load(&a, path, NULL) == 0)
        pw_adapter_free(&a);
}

/* The bytes as the tensors; the first says with which config. */
static void run_mlx(const uint8_t *bytes, size_t n)
{
    static const char *const configs[] = {"{\"lora_parameters\":{\"rank\":2,\"scale\":2.0,\"dropout\":0.0}}", "{\"fine_tune_type\":\"lora\",\"lora_parameters\":{\"rank\":8,\"scale\":2,\"alpha\":3}}"};
    struct pw_adapter a = {0};
    if (n == 0)
        return;
    if (bytes[0] & 2) {            /* the config itself */
        as_file("adapter_config.json", bytes + 1, n - 1);
        as_file("adapters.safetensors", (const uint8_t *)"\x10\0\0\0\0\0\0\0{              }", 24);
    } else {
        const char *config = configs[bytes[0] & 1];
        as_file("adapter_config.json", (const uint8_t *)config, strlen(config));
        as_file("adapters.safetensors", bytes + 1, n - 1);
    }
    if (pw_mlx_load(&a, folder, &small_model) == 0)
        pw_adapter_free(&a);
}

static void run_contest(const uint8_t *bytes, size_t n)
{
    struct pw_contest c;
    memset(&c, 0, sizeof c);
    if (pw_contest_load(&c, as_file("contest.yaml", bytes, n)) == 0)
        pw_contest_free(&c);
}

static void run_choices(const uint8_t *bytes, size_t n)
{
    struct pw_choices c;
    if (pw_choices_recall(&c, (const char *)bytes, n, "fuzz") == 0)
        pw_choices_free(&c);
}

/* Row caches and the states of training runs: what is not sealed is refused before the HDF5 library sees it. */
static void run_h5(const uint8_t *bytes, size_t n)
{
    struct pw_h5_in *in;
    struct pw_buf text = {0};
    int64_t step, shape[PW_H5_MAX_RANK];
    int rank;
    if (pw_h5_open(&in, as_file("state.h5", bytes, n)) == 0) {
        pw_h5_get_i64(in, "step", &step);
        pw_h5_get_text(in, "text", &text);
        pw_h5_shape(in, "a/f", PW_H5_F32, &rank, shape);
        pw_h5_close(in);
    }
    pw_buf_free(&text);
}

/* A folder of bitsandbytes: codes, scales (nested or not) and the state of each weight, which is JSON in a tensor. */
static void run_bnb(const uint8_t *bytes, size_t n)
{
    static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":128,\"num_hidden_layers\":1,\"num_attention_heads\":4,"
                                 "\"num_key_value_heads\":2,\"head_dim\":16,\"max_position_embeddings\":64,\"rms_norm_eps\":1e-6,\"hidden_act\":\"silu\",\"tie_word_embeddings\":false,"
                                 "\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true,\"bnb_4bit_quant_type\":\"nf4\"}}";
    struct pw_checkpoint *c;
    struct pw_weight w;
    uint64_t sum = 0;
    as_file("config.json", (const uint8_t *)config, sizeof config - 1);
    as_file("model.safetensors", bytes, n);
    if (pw_checkpoint_open(&c, folder, NULL) == 0) {
        if (pw_checkpoint_weight(c, "model.layers.0.self_attn.q_proj.weight", 64, 64, &w) == 0)
            for (size_t k = 0; k < 64 * 64 / 2; k++)        /* the codes that 4 bits need are there */
                sum += ((const uint8_t *)w.data)[k];
        pw_checkpoint_close(c);
    }
    if (sum == 1)
        fputc(' ', stderr);
}

const struct fuzz_target fuzz_targets[] = {
    {"json", run_json}, {"yaml", run_yaml}, {"csv", run_csv}, {"safetensors", run_safetensors}, {"gguf", run_gguf}, {"gguf_model", run_gguf_model}, {"config", run_config},
    {"tokenizer", run_tokenizer}, {"tokenizer_llama2c", run_tokenizer_llama2c},
    {"tokenizer_model", run_tokenizer_model}, {"tokenizer_ranks", run_tokenizer_ranks}, {"jinja", run_jinja}, {"archive", run_archive},
    {"recipe", run_recipe}, {"rows", run_rows}, {"adapter", run_adapter}, {"gguf_lora", run_gguf_lora}, {"mlx", run_mlx}, {"contest", run_contest},
    {"go_template", run_go_template}, {"choices", run_choices}, {"h5", run_h5}, {"bnb", run_bnb}, {NULL, NULL},
};
