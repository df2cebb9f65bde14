/* See shape_model.h. */
#include "tests/shape_model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/value.h"
#include "tests/support.h"

#define TOKENIZER "tests/fixtures/train_golden/model"

static void add_tensor(struct pw_buf *header, uint64_t *at, const char *name, int64_t rows, int64_t columns)
{
    const uint64_t bytes = (uint64_t)rows * (uint64_t)(columns ? columns : 1) * 2;
    pw_buf_printf(header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%lld", header->len > 1 ? "," : "", name, (long long)rows);
    if (columns)
        pw_buf_printf(header, ",%lld", (long long)columns);
    pw_buf_printf(header, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)*at, (unsigned long long)(*at + bytes));
    *at += bytes;
}

void shape_model_write(const char *dir, const char *config, struct pw_model_config *c)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json"};
    struct pw_value *json;
    struct pw_arena a;
    struct pw_buf header = {0}, bytes = {0};
    uint64_t at = 0;
    char name[128], suffix[PW_EXPERT_NAME];
    int64_t n_out, n_in;
    pw_arena_init(&a);
    ck_ok(pw_dir_make(dir));
    ck_ok(pw_file_write(test_path(dir, "config.json"), config, strlen(config), true));
    ck_ok(pw_json_load(&a, test_path(dir, "config.json"), &json));
    ck_ok(pw_model_config_parse(c, json, "config.json"));
    pw_buf_char(&header, '{');
    add_tensor(&header, &at, "model.embed_tokens.weight", c->vocab, c->hidden);
    if (!c->tied)
        add_tensor(&header, &at, "lm_head.weight", c->vocab, c->hidden);
    add_tensor(&header, &at, "model.norm.weight", c->hidden, 0);
    for (int i = 0; i < c->layers; i++) {
        for (int n = 0; n < PW_NORM_COUNT; n++)
            if (pw_norm_suffix(c, n)) {
                snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, pw_norm_suffix(c, n));
                add_tensor(&header, &at, name, c->hidden, 0);
            }
        for (int l = 0; l < PW_LIN_COUNT; l++)
            if (pw_layer_has(c, i, l)) {
                pw_linear_shape(c, l, &n_out, &n_in);
                snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, pw_linear_suffix(l));
                add_tensor(&header, &at, name, n_out, n_in);
            }
        if (!pw_model_config_sparse(c, i))
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, pw_router_suffix(c));
        add_tensor(&header, &at, name, c->experts, c->hidden);
        for (int e = 0; e < c->experts; e++)
            for (int part = 0; part < PW_EXPERT_PARTS; part++) {
                pw_expert_suffix(c, e, part, suffix);
                pw_expert_shape(c, part, &n_out, &n_in);
                snprintf(name, sizeof name, "model.layers.%d.%s.weight", i, suffix);
                add_tensor(&header, &at, name, n_out, n_in);
            }
    }
    pw_buf_char(&header, '}');
    while (header.len % 8)
        pw_buf_char(&header, ' ');
    const uint64_t size = header.len;
    pw_buf_add(&bytes, (const char *)&size, sizeof size);
    pw_buf_add(&bytes, header.data, header.len);
    ck_ok(pw_buf_status(&bytes));
    ck_ok(pw_file_write(test_path(dir, "model.safetensors"), bytes.data, bytes.len, true));
    ck_assert_int_eq(truncate(test_path(dir, "model.safetensors"), (off_t)(bytes.len + at)), 0);
    for (int i = 0; i < 2; i++) {
        pw_buf_clear(&bytes);
        ck_ok(pw_file_read(test_path(TOKENIZER, files[i]), 0, &bytes));
        ck_ok(pw_file_write(test_path(dir, files[i]), bytes.data, bytes.len, true));
    }
    pw_buf_free(&header);
    pw_buf_free(&bytes);
    pw_arena_free(&a);
}
