/* The rotary parameters of a config (huggingface/transformers, modeling_rope_utils.py): in either spelling, into numbers that need no config any
 * more. A key that is not understood is refused by name. Knows no tables. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "data/model_config_parts.h"

static const struct { const char *name; enum pw_rope_scaling scaling; } types[] = {
    {"default", PW_ROPE_PLAIN}, {"linear", PW_ROPE_LINEAR}, {"dynamic", PW_ROPE_DYNAMIC}, {"yarn", PW_ROPE_YARN}, {"llama3", PW_ROPE_LLAMA3}, {"longrope", PW_ROPE_LONG}};
enum { TYPES = sizeof types / sizeof *types };

static int scaling_of(const char *type, const struct pw_rope_rules *rules, const char *where, enum pw_rope_scaling *out)
{
    if (rules->phi && (strcmp(type, "su") == 0 || strcmp(type, "yarn") == 0))
        type = "longrope";
    for (int i = 0; i < TYPES; i++)
        if (strcmp(types[i].name, type) == 0) {
            *out = types[i].scaling;
            PW_CHECK(!rules->phi || *out == PW_ROPE_PLAIN || *out == PW_ROPE_LONG, PW_E_UNSUPPORTED, "%s: rope_type %s is not supported for this family (known: default, longrope)",
                     where, type);
            return 0;
        }
    return pw_error(PW_E_UNSUPPORTED, "%s: rope_type %.40s is not supported (known: default, linear, dynamic, yarn, llama3, longrope)", where, type);
}

static int check_keys(const struct pw_value *rope, const char *where)
{
    static const char *const known[] = {"type", "rope_type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor", "high_freq_factor",
                                        "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                                        "truncate", "short_factor", "long_factor"};
    for (size_t i = 0; i < rope->len; i++) {
        bool found = false;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            found |= strcmp(known[k], rope->members[i].key) == 0;
        PW_CHECK(found || rope->members[i].value.kind == PW_NULL, PW_E_UNSUPPORTED, "%s: %.60s is not supported", where, rope->members[i].key);
    }
    return 0;
}

/* The part of a head that rotates: int(head_dim * factor), as transformers has it. */
static int rotary(struct pw_model_config *c, const struct pw_rope_rules *rules, const struct pw_value *json, const char *where)
{
    double part = 0;
    PW_PASS(pw_config_positive(json, "partial_rotary_factor", where, &part));
    if (part == 0)
        return 0;
    PW_CHECK(rules->phi || part == 1, PW_E_UNSUPPORTED, "%s: partial_rotary_factor is not supported for this family (expected 1, got %g)", where, part);
    PW_CHECK(part <= 1, PW_E_FORMAT, "%s: partial_rotary_factor must be at most 1 (got %g)", where, part);
    const int dims = (int)(c->head_dim * part);
    PW_CHECK(dims > 0 && dims % 2 == 0, PW_E_UNSUPPORTED, "%s: partial_rotary_factor: %d of %d dimensions rotate, expected an even number above 0", where, dims, c->head_dim);
    c->rotary = dims == c->head_dim ? 0 : dims;
    return 0;
}

static int factors(const struct pw_model_config *c, const struct pw_value *rope, const char *key, const char *where, double out[PW_ROPE_PAIRS_MAX])
{
    const struct pw_value *v = pw_get(rope, key);
    const int n = pw_model_config_rotary(c) / 2;
    PW_CHECK(v, PW_E_FORMAT, "%s: %s is missing", where, key);
    PW_CHECK(n <= PW_ROPE_PAIRS_MAX, PW_E_UNSUPPORTED, "%s: %s: heads of more than %d dimensions are not supported", where, key, 2 * PW_ROPE_PAIRS_MAX);
    PW_CHECK(v->kind == PW_LIST && v->len == (size_t)n, PW_E_FORMAT, "%s: %s: expected a list of %d numbers", where, key, n);
    for (int i = 0; i < n; i++) {
        const struct pw_value *x = &v->items[i];
        out[i] = x->kind == PW_INT ? (double)x->i : x->kind == PW_REAL ? x->d : 0;
        PW_CHECK(out[i] > 0 && isfinite(out[i]), PW_E_FORMAT, "%s: %s[%d]: expected a number above 0", where, key, i);
    }
    return 0;
}

/* How much YaRN sharpens attention: 0.1 m ln(scale) + 1 (Peng et al. 2023). */
static double yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

static int read_yarn(struct pw_model_config *c, const struct pw_value *rope, const char *where, bool nested)
{
    double m = 0, m_all = 0, fast = 0, slow = 0;
    bool truncate = true;
    c->rope_attention = yarn_scale(c->rope_factor, 1);
    PW_PASS(pw_get_f64(rope, "mscale", where, &m));
    PW_PASS(pw_get_f64(rope, "mscale_all_dim", where, &m_all));
    if (m != 0 && m_all != 0)
        c->rope_attention = yarn_scale(c->rope_factor, m) / yarn_scale(c->rope_factor, m_all);
    PW_PASS(pw_config_positive(rope, "attention_factor", where, &c->rope_attention));
    PW_CHECK(c->rope_attention > 0 && isfinite(c->rope_attention), PW_E_FORMAT, "%s: mscale and mscale_all_dim give an attention factor of %g", where, c->rope_attention);
    PW_PASS(pw_get_f64(rope, "beta_fast", where, &fast));
    PW_PASS(pw_get_f64(rope, "beta_slow", where, &slow));
    c->rope_beta_fast = fast != 0 ? fast : 32;
    c->rope_beta_slow = slow != 0 ? slow : 1;
    PW_CHECK(c->rope_beta_slow > 0 && c->rope_beta_fast > c->rope_beta_slow && isfinite(c->rope_beta_fast), PW_E_FORMAT, "%s: beta_fast must be above beta_slow, and both above 0 (%g, %g)",
             where, c->rope_beta_fast, c->rope_beta_slow);
    PW_PASS(pw_get_bool(rope, "truncate", where, &truncate));
    PW_CHECK(truncate || !nested, PW_E_UNSUPPORTED, "%s: truncate is not supported here", where);   /* transformers looks for it outside, and so leaves it out */
    c->rope_whole_range = !truncate;
    return 0;
}

static int read_long(struct pw_model_config *c, const struct pw_value *rope, const char *where)
{
    c->rope_attention = c->rope_factor <= 1 ? 1 : sqrt(1 + log(c->rope_factor) / log(c->rope_original_context));
    PW_PASS(pw_config_positive(rope, "attention_factor", where, &c->rope_attention));
    PW_CHECK(isfinite(c->rope_attention), PW_E_FORMAT, "%s: original_max_position_embeddings of %g has no attention factor", where, c->rope_original_context);
    PW_PASS(factors(c, rope, "short_factor", where, c->rope_short));
    return factors(c, rope, "long_factor", where, c->rope_long);
}

/* Nothing is scaled within max_position_embeddings, and factor says how far beyond it a sequence may go: that is the context. */
static int read_dynamic(struct pw_model_config *c, const char *where)
{
    PW_CHECK(c->rope_factor >= 1, PW_E_FORMAT, "%s: factor must be at least 1 with rope_type dynamic (got %g)", where, c->rope_factor);
    PW_CHECK(pw_model_config_rotary(c) > 2, PW_E_UNSUPPORTED, "%s: rope_type dynamic takes heads of more than 2 dimensions", where);
    c->rope_original_context = (double)c->context;
    PW_CHECK(c->rope_factor * c->rope_original_context <= 1 << 30, PW_E_FORMAT, "%s: factor %g times max_position_embeddings is more than 2^30", where, c->rope_factor);
    c->context = (int64_t)(c->rope_factor * c->rope_original_context);
    return 0;
}

/* One map of parameters. outer: the whole config, whose original_max_position_embeddings goes before that of the map. */
static int read_map(struct pw_model_config *c, const struct pw_rope_rules *rules, const struct pw_value *rope, const struct pw_value *outer, const char *source,
                    const char *where, bool nested)
{
    const char *type = NULL;
    PW_PASS(pw_config_positive(rope, "rope_theta", where, &c->rope_theta));
    PW_PASS(rotary(c, rules, rope, where));
    PW_PASS(pw_get_str(rope, "type", where, &type));
    PW_CHECK(!type || !rules->local || pw_get(rope, "rope_type"), PW_E_UNSUPPORTED, "%s: type is not supported for this family, whose key is rope_type", where); /* transformers passes over it */
    PW_PASS(pw_get_str(rope, "rope_type", where, &type));
    PW_PASS(check_keys(rope, where));
    PW_CHECK(type || (!pw_get(rope, "factor") && !pw_get(rope, "long_factor")), PW_E_FORMAT, "%s: rope_type is missing", where);
    if (!type)
        return 0;
    PW_PASS(scaling_of(type, rules, where, &c->rope_scaling));
    if (c->rope_scaling == PW_ROPE_PLAIN)
        return 0;
    const bool may_lack = c->rope_scaling == PW_ROPE_YARN || c->rope_scaling == PW_ROPE_LONG;
    if (may_lack || c->rope_scaling == PW_ROPE_LLAMA3) {
        double outside = rules->phi ? 4096 : 0;
        c->rope_original_context = (double)c->context;
        PW_PASS(pw_config_positive(rope, "original_max_position_embeddings", where, &c->rope_original_context));
        PW_PASS(pw_config_positive(outer, "original_max_position_embeddings", source, &outside));
        if (outside > 0)
            c->rope_original_context = outside;
        PW_CHECK(c->rope_original_context >= 1 && c->rope_original_context <= 1 << 30 && c->rope_original_context == floor(c->rope_original_context), PW_E_FORMAT,
                 "%s: original_max_position_embeddings: expected a whole number up to 2^30, got %g", where, c->rope_original_context);
        c->rope_factor = (double)c->context / c->rope_original_context;
    }
    const struct pw_value *factor = pw_get(rope, "factor");
    PW_CHECK(may_lack || (factor && factor->kind != PW_NULL), PW_E_FORMAT, "%s: factor is missing", where);
    PW_PASS(pw_config_positive(rope, "factor", where, &c->rope_factor));
    if (c->rope_scaling == PW_ROPE_LLAMA3) {
        static const char *const keys[] = {"low_freq_factor", "high_freq_factor"};
        double *const into[] = {&c->rope_low_freq, &c->rope_high_freq};
        for (int i = 0; i < 2; i++) {
            PW_CHECK(pw_get(rope, keys[i]), PW_E_FORMAT, "%s: %s is missing", where, keys[i]);
            PW_PASS(pw_config_positive(rope, keys[i], where, into[i]));
        }
        PW_CHECK(c->rope_high_freq > c->rope_low_freq, PW_E_FORMAT, "%s: high_freq_factor must be above low_freq_factor (%g, %g)", where, c->rope_high_freq,
                 c->rope_low_freq);
    }
    if (c->rope_scaling == PW_ROPE_YARN)
        PW_PASS(read_yarn(c, rope, where, nested));
    if (c->rope_scaling == PW_ROPE_DYNAMIC)
        PW_PASS(read_dynamic(c, where));
    return c->rope_scaling == PW_ROPE_LONG ? read_long(c, rope, where) : 0;
}

/* One map for each type of layer. */
static int read_nested(struct pw_model_config *c, const struct pw_rope_rules *rules, const struct pw_value *maps, const struct pw_value *json, const char *source, const char *where)
{
    char inner[200];
    for (size_t i = 0; i < maps->len; i++) {
        const char *key = maps->members[i].key;
        const struct pw_value *map = &maps->members[i].value;
        const bool local = strcmp(key, "sliding_attention") == 0;
        PW_CHECK(rules->local && (local || strcmp(key, "full_attention") == 0), PW_E_UNSUPPORTED, "%s: %.60s is not supported", where, key);
        PW_CHECK(map->kind == PW_MAP, PW_E_UNSUPPORTED, "%s: %s: expected a map, got %s", where, key, pw_kind_name(map->kind));
        snprintf(inner, sizeof inner, "%s: %s", where, key);
        if (!local) {
            PW_PASS(read_map(c, rules, map, json, source, inner, true));
            continue;
        }
        const char *type = "default";
        PW_PASS(pw_get_str(map, "type", inner, &type));
        PW_PASS(pw_get_str(map, "rope_type", inner, &type));
        PW_CHECK(strcmp(type, "default") == 0, PW_E_UNSUPPORTED, "%s: rope_type %.40s is not supported (known: default)", inner, type);
        PW_PASS(check_keys(map, inner));
        PW_CHECK(!pw_get(map, "partial_rotary_factor"), PW_E_UNSUPPORTED, "%s: partial_rotary_factor is not supported", inner);
        PW_PASS(pw_config_positive(map, "rope_theta", inner, &c->rope_local_theta));
    }
    return 0;
}

int pw_rope_config_read(struct pw_model_config *c, const struct pw_rope_rules *rules, const struct pw_value *json, const char *source)
{
    const char *key = "rope_parameters";
    char where[160];
    PW_PASS(pw_config_positive(json, "rope_theta", source, &c->rope_theta));
    if (rules->local)
        PW_PASS(pw_config_positive(json, "rope_local_base_freq", source, &c->rope_local_theta));
    PW_PASS(rotary(c, rules, json, source));
    const struct pw_value *rope = pw_get(json, key);
    if (!rope || rope->kind == PW_NULL)
        rope = pw_get(json, key = "rope_scaling");
    if (!rope || rope->kind == PW_NULL)
        return 0;
    PW_CHECK(rope->kind == PW_MAP, PW_E_FORMAT, "%s: %s: expected a map, got %s", source, key, pw_kind_name(rope->kind));
    snprintf(where, sizeof where, "%.120s: %s", source, key);
    if (pw_get(rope, "full_attention") || pw_get(rope, "sliding_attention"))
        return read_nested(c, rules, rope, json, source, where);
    return read_map(c, rules, rope, json, source, where, rules->local);
}

static void write_list(struct pw_json *w, const char *key, const double *x, int n)
{
    pw_json_open(w, key, '[');
    for (int i = 0; i < n; i++)
        pw_json_f64(w, NULL, x[i]);
    pw_json_close(w, ']');
}

void pw_rope_config_write(const struct pw_model_config *c, struct pw_json *w)
{
    const enum pw_rope_scaling s = c->rope_scaling;
    const char *name = "default";
    for (int i = 0; i < TYPES; i++)
        if (types[i].scaling == s)
            name = types[i].name;
    if (c->rotary) {           /* what int(head_dim * x) gives back */
        const double x = (double)c->rotary / c->head_dim;
        pw_json_f64(w, "partial_rotary_factor", (int)(c->head_dim * x) == c->rotary ? x : (c->rotary + 0.5) / c->head_dim);
    }
    if (s == PW_ROPE_LONG)     /* transformers reads it here for Phi-3, and here first for all */
        pw_json_i64(w, "original_max_position_embeddings", (int64_t)c->rope_original_context);
    if (c->rope_local_theta > 0)
        pw_json_f64(w, "rope_local_base_freq", c->rope_local_theta);
    if (s == PW_ROPE_PLAIN) {
        pw_json_null(w, "rope_scaling");
        return;
    }
    pw_json_open(w, "rope_scaling", '{');
    if (s == PW_ROPE_YARN || s == PW_ROPE_LONG)
        pw_json_f64(w, "attention_factor", c->rope_attention);
    if (s == PW_ROPE_YARN) {
        pw_json_f64(w, "beta_fast", c->rope_beta_fast);
        pw_json_f64(w, "beta_slow", c->rope_beta_slow);
    }
    pw_json_f64(w, "factor", c->rope_factor);
    if (s == PW_ROPE_LLAMA3) {
        pw_json_f64(w, "low_freq_factor", c->rope_low_freq);
        pw_json_f64(w, "high_freq_factor", c->rope_high_freq);
    }
    if (s == PW_ROPE_LONG)
        write_list(w, "long_factor", c->rope_long, pw_model_config_rotary(c) / 2);
    if (s == PW_ROPE_LLAMA3 || s == PW_ROPE_YARN || s == PW_ROPE_LONG)
        pw_json_i64(w, "original_max_position_embeddings", (int64_t)c->rope_original_context);
    pw_json_str(w, "rope_type", name);
    if (s == PW_ROPE_LONG)
        write_list(w, "short_factor", c->rope_short, pw_model_config_rotary(c) / 2);
    if (s == PW_ROPE_YARN && c->rope_whole_range)
        pw_json_bool(w, "truncate", false);
    pw_json_close(w, '}');
}
