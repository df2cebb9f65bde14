/* Recipes: every row reads, is checked, and survives being written and read again; mistakes name key, line and the way out. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "tests/support.h"
#include "train/recipe.h"

#define HEAD "model: m\noutput: o\ndata: {train: t.jsonl}\n"

static int parse(struct pw_recipe *r, const char *text, const char *set)
{
    return pw_recipe_parse(r, text, strlen(text), "r.yaml", &set, set ? 1 : 0);
}

static void refused(const char *text, const char *set, const char *message)
{
    struct pw_recipe r;
    ck_fails(parse(&r, text, set), PW_E_USAGE, message);
    pw_recipe_free(&r);
}

START_TEST(defaults_and_overrides)
{
    struct pw_recipe r;
    ck_ok(parse(&r, HEAD "quant: {type: nf4, double_quant: true}\ntrain: {lr: 1e-3}\n", NULL));
    ck_assert_str_eq(r.model, "m");
    ck_assert_str_eq(r.quant_type, "nf4");
    ck_assert(r.double_quant && r.packing && r.checkpointing);
    ck_assert_int_eq(r.r, 16);
    ck_close(r.lr, 1e-3, 0, 0);
    ck_close(r.betas[1], 0.999, 0, 0);
    pw_recipe_free(&r);
    ck_ok(parse(&r, HEAD "quant: {type: nf4, double_quant: true}\n", "quant=none"));
    ck_assert_str_eq(r.quant_type, "none");
    ck_assert(!r.double_quant);      /* the word stands for the whole group */
    pw_recipe_free(&r);
    ck_ok(parse(&r, HEAD, "adapter.targets=[q_proj, v_proj]"));
    ck_assert_str_eq(r.targets, "q_proj,v_proj");
    pw_recipe_free(&r);
}
END_TEST

START_TEST(mistakes)
{
    refused(HEAD "train:\n  learning: 1\n", NULL, "r.yaml line 5: train.learning: no such key");
    refused(HEAD "train: {lrr: 1}\n", NULL, "the nearest is train.lr");
    refused(HEAD "epochs: 3\n", NULL, "the nearest is train.epochs");
    refused(HEAD, "adapter.init=pisa", "the nearest is pissa");
    refused(HEAD, "adapter.kind=dorra", "the nearest is dora");
    refused(HEAD, "adapter.module_to_save=norm", "the nearest is adapter.modules_to_save");
    refused(HEAD "adapter: {init: pissa, dropout: 0.1}\n", NULL, "pissa needs adapter.dropout: 0");
    refused(HEAD "adapter: {init: pissa}\ntrain: {weight_decay: 0.1}\n", NULL, "pissa needs train.weight_decay: 0");
    refused(HEAD "adapter: {init: pissa, kind: dora}\n", NULL, "pissa needs adapter.kind: lora");
    refused(HEAD "adapter: {init: loftq}\n", NULL, "loftq needs quant.type");
    refused(HEAD "adapter: {init: pissa_niter_4, dropout: 0.1}\n", NULL, "pissa needs adapter.dropout: 0");
    refused(HEAD "adapter: {init: pissa_niter_}\n", NULL, "no such choice");
    refused(HEAD "adapter: {init: pissa_niter_1001}\n", NULL, "no such choice");
    refused(HEAD "adapter: {init: pissa_niter_N}\n", NULL, "no such choice");
    refused(HEAD "adapter: {init: pissa_niter_04}\n", NULL, "no such choice");
    refused(HEAD "train: {load_best: true}\n", NULL, "train.load_best needs rows to evaluate on");
    refused(HEAD "adapter: {loftq_iter: 2}\n", NULL, "adapter.loftq_iter: 2 needs adapter.init: loftq");
    refused(HEAD "adapter: {init: pissa, init_from: there}\n", NULL, "exclude each other");
    refused(HEAD "adapter: {kind: full, bias: all}\n", NULL, "adapter.bias needs adapter.kind: lora or dora");
    refused(HEAD "adapter: {kind: full, modules_to_save: [norm]}\n", NULL, "adapter.modules_to_save needs adapter.kind: lora or dora");
    refused(HEAD, "train.sed=1", "--set train.sed=1: train.sed: no such key, the nearest is train.seed");
    refused(HEAD, "train.seed", "expected KEY=VALUE");
    refused(HEAD "train: {epochs: many}\n", NULL, "train.epochs: expected a whole number, got string");
    refused(HEAD "train: {epochs: 1.5}\n", NULL, "expected a whole number, got 1.5");
    refused(HEAD "train: {epochs: 0}\n", NULL, "out of range (expected 1 to");
    refused(HEAD "adapter: {dropout: 1}\n", NULL, "expected 0 to less than 1, got 1");
    refused(HEAD "train: {schedule: cosin}\n", NULL, "the nearest is cosine");
    refused(HEAD "train: {packing: true}\n", NULL, "the nearest is data.packing");
    refused(HEAD "train: {checkpointing: 1}\n", NULL, "expected true or false, got int");
    refused(HEAD "train: 3\n", NULL, "train: expected a map, got int");
    refused("output: o\ndata: {train: t}\n", NULL, "model: is missing");
    refused("model: m\noutput: o\n", NULL, "data.train: is missing");
    refused("model: m\ndata: {train: t}\n", NULL, "output: is missing");
    refused("model: {fresh: c.json, tokenizer: t}\noutput: o\ndata: {train: t}\n", NULL, "needs adapter.kind: full");
    refused(HEAD "train: {patience: 2}\n", NULL, "train.patience needs rows to evaluate on");
    refused(HEAD "train: {dpo_loss: ipo}\n", NULL, "train.dpo_loss: ipo needs train.objective: dpo");
    refused(HEAD "train: {objective: dpo, dpo_loss: ipo, label_smoothing: 0.1}\n", NULL, "train.label_smoothing needs");
    refused(HEAD "train: {objective: orpo, rpo_alpha: 1}\n", NULL, "train.rpo_alpha needs train.objective: dpo");
    refused(HEAD "train: {objective: dop}\n", NULL, "the nearest is dpo");
    refused(HEAD "adapter: {kind: full}\nquant: nf4\n", NULL, "quant.type must be none");
    refused(HEAD "adapter: {rank_pattern: {q_proj: x}}\n", NULL, "adapter.rank_pattern: expected numbers, got string");
    refused(HEAD "adapter: {rank_pattern: 3}\n", NULL, "expected a map of names and numbers, got int");
    refused("- a\n", NULL, "expected a map of settings");
}
END_TEST

/* One layer is a number in YAML, and several are a list, as PEFT's layers_to_transform is. */
START_TEST(layers_in_every_form)
{
    static const char *const forms[][2] = {{"0", "0"}, {"[0, 2]", "0,2"}, {"[0-1, 3]", "0-1,3"}, {"0-3,28-31", "0-3,28-31"}, {"\"7\"", "7"}};
    static const char *const bad[] = {"[]", "-1", "1.5", "true", "[1, [2]]", "{a: 1}"};
    char text[256];
    struct pw_recipe r;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        struct pw_buf written = {0};
        struct pw_recipe back;
        snprintf(text, sizeof text, "model: m\noutput: o\ndata: {train: t.jsonl}\nadapter:\n  layers: %s\n", forms[i][0]);
        ck_ok(parse(&r, text, NULL));
        ck_assert_str_eq(r.layers, forms[i][1]);
        ck_ok(pw_recipe_write(&r, &written));
        ck_ok(pw_recipe_parse(&back, written.data, written.len, "again", NULL, 0));
        ck_assert_str_eq(back.layers, forms[i][1]);
        pw_buf_free(&written);
        pw_recipe_free(&back);
        pw_recipe_free(&r);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        snprintf(text, sizeof text, "model: m\noutput: o\ndata: {train: t.jsonl}\nadapter:\n  layers: %s\n", bad[i]);
        ck_fails(parse(&r, text, NULL), PW_E_USAGE, "adapter.layers");
        pw_recipe_free(&r);
    }
}
END_TEST

START_TEST(written_and_read_again)
{
    struct pw_recipe r, back;
    struct pw_buf a = {0}, b = {0};
    char x[256], y[256];
    ck_ok(parse(&r, "model: \"a b: #c\"\noutput: o\ndata: {train: [{path: t.jsonl, weight: 2}, u.jsonl], eval: 0.1}\ntrain: {lr: 3e-5, warmup: 7}\n"
             "adapter: {rank_pattern: {q_proj: 8, layers.0.mlp.up_proj: 32}, alpha_pattern: {v_proj: 1.5}, layers: 0-1}\n", NULL));
    ck_ok(pw_recipe_write(&r, &a));
    ck_ok(pw_recipe_parse(&back, a.data, a.len, "again", NULL, 0));
    ck_ok(pw_recipe_write(&back, &b));
    ck_assert_str_eq(a.data, b.data);
    ck_assert_ptr_null(pw_recipe_difference(&r, &back, x, y));
    ck_assert_str_eq(back.rank_pattern, "q_proj=8,layers.0.mlp.up_proj=32");
    back.lr = 4e-5;
    ck_assert_str_eq(pw_recipe_difference(&r, &back, x, y), "train.lr");
    back.lr = r.lr;
    back.save_every = 3;          /* does not change the result */
    ck_assert_ptr_null(pw_recipe_difference(&r, &back, x, y));
    pw_buf_free(&a);
    pw_buf_free(&b);
    pw_recipe_free(&r);
    pw_recipe_free(&back);
}
END_TEST

/* Each default is a value that its own row takes, and each key stands once. */
START_TEST(rows)
{
    for (int i = 0; pw_recipe_rows[i].key; i++) {
        const struct pw_recipe_row *row = &pw_recipe_rows[i];
        struct pw_recipe r;
        char set[256];
        for (int k = 0; k < i; k++)
            ck_assert_str_ne(row->key, pw_recipe_rows[k].key);
        ck_assert(row->help && row->help[0]);
        if (!row->fallback)
            continue;
        snprintf(set, sizeof set, "%s=%s", row->key, row->fallback);
        ck_ok(parse(&r, HEAD, set));
        pw_recipe_free(&r);
    }
}
END_TEST

START_TEST(embedded)
{
    static const char *const names[] = {
        "mistral-7b-qlora", "llama-3.1-8b-qlora", "llama-3.2-1b-qlora", "llama-3.2-3b-qlora", "qwen2.5-7b-qlora", "qwen3-8b-qlora", "mixtral-8x7b-qlora",
        "gemma-2-9b-qlora", "phi-3.5-mini-qlora", "lora", "dora", "full", "pretrain", "dpo", "orpo", "kto", "simpo", "guanaco", "tiny-lora", "tiny-full.yaml"};
    size_t embedded_ones = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct pw_recipe r;
        ck_ok(pw_recipe_load(&r, names[i], NULL, 0));
        pw_recipe_free(&r);
    }
    for (const struct pw_embedded *e = pw_embedded_files; e->name; e++) /* each of them is on the list and is a recipe */
        embedded_ones += strncmp(e->name, "recipes/", 8) == 0;
    ck_assert_uint_eq(embedded_ones, sizeof names / sizeof names[0]);
    struct pw_recipe r;
    ck_fails(pw_recipe_load(&r, "no-such", NULL, 0), PW_E_USAGE, "neither a file nor an embedded recipe");
    pw_recipe_free(&r);
}
END_TEST

static int work(void *context)
{
    struct pw_recipe r;
    struct pw_buf b = {0};
    (void)context;
    int rc = parse(&r, HEAD "adapter: {targets: [q_proj, v_proj]}\n", "train.lr=1");
    if (rc == 0)
        rc = pw_recipe_write(&r, &b);
    pw_buf_free(&b);
    pw_recipe_free(&r);
    return rc;
}

START_TEST(no_memory)
{
    ck_assert_int_gt(test_sweep_nomem(work, NULL), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("recipe");
    TCase *c = tcase_create("recipe");
    tcase_add_test(c, defaults_and_overrides);
    tcase_add_test(c, mistakes);
    tcase_add_test(c, layers_in_every_form);
    tcase_add_test(c, written_and_read_again);
    tcase_add_test(c, rows);
    tcase_add_test(c, embedded);
    tcase_add_test(c, no_memory);
    suite_add_tcase(s, c);
    return test_run(s);
}
