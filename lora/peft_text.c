/* Adapters of the text part of a model of several parts (Gemma3ForConditionalGeneration): in PEFT's files its layers are model.language_model.layers.N, or language_model.model.layers.N as
 * transformers before 4.52 built them; here and in every other file they are model.layers.N. Owns these names. target_modules is written as an expression that
 * selects the text alone, since the vision part has linears of the same names, and modules_to_save as whole names, since PEFT takes a word for every end of a name. */
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "lora/peft_parts.h"

static const char outer[] = "model.language_model.", inner[] = "model.";
static const struct { const char *from, *to; } spelled[] = {
    {PW_PEFT_PREFIX "model.language_model.", PW_PEFT_PREFIX "model."}, {PW_PEFT_PREFIX "language_model.model.", PW_PEFT_PREFIX "model."}, {PW_PEFT_PREFIX "language_model.lm_head.", PW_PEFT_PREFIX "lm_head."}};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct pw_st_tensor *)a)->name, ((const struct pw_st_tensor *)b)->name);
}

/* Words of modules_to_save with the names of the text model alone. */
static int take_words(struct pw_adapter *a, const char *path)
{
    static const char part[] = "language_model.";
    const char *words = "";
    if (!a->config.modules_to_save)
        return 0;
    for (const char *at = a->config.modules_to_save; *at && words;) {
        const size_t n = strcspn(at, ",");
        char *word = pw_arena_strndup(&a->arena, at, n), *own = word ? strstr(word, part) : NULL;
        PW_CHECK(word, PW_E_NOMEM, "%s: no memory", path);
        const char *rest = own ? own + strlen(part) : word;
        const bool bare = own && strncmp(rest, inner, strlen(inner)) != 0 && strcmp(rest, "lm_head") != 0;
        words = pw_arena_printf(&a->arena, "%s%s%s%s", words, *words ? "," : "", bare ? inner : "", rest);
        at += n + (at[n] == ',');
    }
    PW_CHECK(words, PW_E_NOMEM, "%s: no memory", path);
    a->config.modules_to_save = words;
    return 0;
}

int pw_peft_take_text(struct pw_adapter *a, struct pw_safetensors *s, const char *path)
{
    a->config.of_text = false;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < sizeof spelled / sizeof *spelled; k++) {
            struct pw_st_tensor *t = &s->tensors[i];
            const size_t n = strlen(spelled[k].from);
            if (strncmp(t->name, spelled[k].from, n) != 0)
                continue;
            t->name = pw_arena_printf(&a->arena, "%s%s", spelled[k].to, t->name + n);
            PW_CHECK(t->name, PW_E_NOMEM, "%s: no memory", path);
            a->config.of_text = true;
            break;
        }
    if (!a->config.of_text)
        return 0;
    PW_PASS(take_words(a, path));
    qsort(s->tensors, s->n, sizeof *s->tensors, by_name);
    for (size_t i = 1; i < s->n; i++)
        PW_CHECK(by_name(&s->tensors[i - 1], &s->tensors[i]) != 0, PW_E_FORMAT, "%s: %s is there in two spellings", path, s->tensors[i].name);
    return 0;
}

const char *pw_peft_name(const struct pw_adapter *a, struct pw_arena *arena, const char *module)
{
    const size_t n = strlen(inner);
    return a->config.of_text && strncmp(module, inner, n) == 0 ? pw_arena_printf(arena, "%s%s", outer, module + n) : module;
}

/* The part of a name after its layer; NULL: it is in no layer. */
static const char *suffix_of(const char *name, int *layer)
{
    int used = 0;
    return sscanf(name, "model.layers.%9d.%n", layer, &used) == 1 && used > 0 ? name + used : NULL;
}

static void add(struct pw_buf *text, const char *name)
{
    for (; *name; name++)
        pw_buf_printf(text, "%s%c", *name == '.' ? "\\" : "", *name);
}

int pw_peft_write_text_saved(const struct pw_adapter *a, struct pw_arena *arena, struct pw_json *w)
{
    for (size_t i = 0; i < a->n_saved; i++) {
        const char *name = pw_peft_name(a, arena, a->saved[i].name);
        PW_CHECK(name, PW_E_NOMEM, "no memory to write the adapter");
        if (!pw_adapter_is_bias(name, NULL))
            pw_json_str(w, NULL, name);
    }
    return 0;
}

void pw_peft_write_text_targets(const struct pw_adapter *a, struct pw_json *w)
{
    struct pw_buf text = {0};
    int first = 0, layer = 0, most = 0;
    size_t of_first = 0;
    bool alike = a->n > 0 && suffix_of(a->modules[0].name, &first);      /* all layers from the first have the modules of the first */
    for (; alike && of_first < a->n && suffix_of(a->modules[of_first].name, &layer) && layer == first; of_first++)
        ;
    for (size_t i = 0; alike && i < a->n; i++) {
        const char *suffix = suffix_of(a->modules[i].name, &layer);
        alike = suffix && layer == first + (int)(i / of_first) && strcmp(suffix, suffix_of(a->modules[i % of_first].name, &most)) == 0;
    }
    alike = alike && a->n % of_first == 0;
    pw_buf_str(&text, "model\\.language_model\\.");
    if (alike) {
        pw_buf_str(&text, "layers\\.(");
        for (size_t i = 0; i < a->n / of_first; i++)
            pw_buf_printf(&text, "%s%d", i ? "|" : "", first + (int)i);
        pw_buf_str(&text, ")\\.(");
    } else
        pw_buf_char(&text, '(');
    for (size_t i = 0; i < (alike ? of_first : a->n); i++) {
        pw_buf_str(&text, i ? "|" : "");
        add(&text, alike ? suffix_of(a->modules[i].name, &layer) : a->modules[i].name + strlen(inner));
    }
    pw_buf_char(&text, ')');
    if (pw_buf_status(&text) < 0)
        w->out.failed = true;
    else
        pw_json_str(w, "target_modules", text.data);
    pw_buf_free(&text);
}
