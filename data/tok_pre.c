/* Published pre-splits of byte-level BPE by name: the regular expressions that cut a text into words, as the models'
 * tokenizer.json or the tiktoken package have them. Names as in tokenizer.ggml.pre, and those of tiktoken's encodings.
 *
 * The same families use the same rows; what a family adds (NFC, whole words before merges) is part of the row. */
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/tok_parts.h"

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define TAIL "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const char gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
static const char llama3[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL;
static const char qwen2[] = CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL;
static const char cl100k[] = "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++\\z|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
static const char tekken[] = "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL;
static const char gpt4o[] = "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" CONTRACTIONS "?|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*" CONTRACTIONS
                            "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL;
static const char deepseek3[] = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL;
static const char digit[] = "\\p{N}", digits3[] = "\\p{N}{1,3}", breaks[] = "[\\r\\n]", letters[] = "\\s?\\p{L}+", marks[] = "\\s?\\p{P}+";
static const char cjk_wide[] = "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", cjk[] = "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+";

static const struct row { const char *names; const char *steps[5]; bool nfc, whole, digits; } rows[] = {
    { "gpt-2 gpt2 r50k_base p50k_base mpt olmo phi-2 jais", { gpt2 }, false, false, false },
    { "llama-bpe llama3 llama-v3 falcon3 pixtral dbrx smaug-bpe", { llama3 }, false, true, false },
    { "qwen2 qwen deepseek-r1-qwen stablelm2", { qwen2 }, true, false, false },
    { "cl100k_base", { cl100k }, false, false, false },
    { "gpt-4o o200k_base llama4", { gpt4o }, false, false, false },
    { "tekken", { tekken }, false, true, false },
    { "smollm starcoder refact command-r codeshell", { digit, gpt2 }, false, false, false },
    { "deepseek-llm", { breaks, letters, marks, cjk_wide }, false, false, true },
    { "deepseek-coder", { breaks, letters, marks, cjk_wide }, false, false, true },
    { "deepseek-v3", { digits3, cjk, deepseek3 }, false, false, false },
};

static const struct row *find(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; n && i < sizeof rows / sizeof *rows; i++)
        for (const char *at = rows[i].names; *at;) {
            size_t k = strcspn(at, " ");
            if (k == n && memcmp(at, name, n) == 0)
                return &rows[i];
            at += k + (at[k] == ' ');
        }
    return NULL;
}

bool tok_pre_known(const char *name) { return find(name) != NULL; }

const char *pw_tokenizer_pre_names(void)
{
    return "gpt-2, llama-bpe, qwen2, cl100k_base, gpt-4o, o200k_base, tekken, smollm, deepseek-llm, deepseek-coder, deepseek-v3";
}

int tok_pre_set(struct pw_tokenizer *t, const char *name, const char *where)
{
    const struct row *r = find(name);
    char source[256];
    PW_CHECK(r, PW_E_UNSUPPORTED, "%s: pre-split \"%.60s\" is not supported (known: %s)", where, name, pw_tokenizer_pre_names());
    snprintf(source, sizeof source, "%s: pre-split %s", where, name);
    if (r->nfc)
        t->norm[t->n_norm++] = (struct tok_norm){ .kind = NORM_FORM, .form = PW_NFC };
    for (size_t i = 0; i < 5 && r->steps[i]; i++) {
        struct tok_pre *s = &t->pre[t->n_pre++];
        *s = (struct tok_pre){ .kind = PRE_SPLIT, .behaviour = SPLIT_ISOLATED };
        PW_PASS(pw_regex_compile(&s->regex, r->steps[i], strlen(r->steps[i]), source));
    }
    if (r->digits)
        t->pre[t->n_pre++] = (struct tok_pre){ .kind = PRE_CLASS, .class = pw_cp_numeric, .behaviour = SPLIT_ISOLATED };
    t->pre[t->n_pre++] = (struct tok_pre){ .kind = PRE_BYTE_LEVEL };
    t->dec[t->n_dec++] = (struct tok_dec){ .kind = DEC_BYTE_LEVEL };
    t->has_decoder = true;
    t->ignore_merges = t->ignore_merges || r->whole;
    return 0;
}
