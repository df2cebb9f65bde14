/* All op cases, in one list, and what their files build arrays with. The runner is in op_run.c. */
#include "tests/op_parts.h"

#include <stdlib.h>

int add(struct problem *p, const char *name, enum role role, enum pw_dtype type, int ndim, int64_t a, int64_t b, int64_t c)
{
    if (p->n == ARRAYS) abort();
    p->a[p->n] = (struct array){ .name = name, .role = role, .type = type, .ndim = ndim, .shape = { a, b, c }, .low = -1, .high = 1, .gradient = -1 };
    return p->n++;
}
int add1(struct problem *p, const char *name, enum role role, int64_t a) { return add(p, name, role, PW_F64, 1, a, 1, 1); }
int add2(struct problem *p, const char *name, enum role role, int64_t a, int64_t b) { return add(p, name, role, PW_F64, 2, a, b, 1); }
int add3(struct problem *p, const char *name, enum role role, int64_t a, int64_t b, int64_t c) { return add(p, name, role, PW_F64, 3, a, b, c); }

static int activation(struct problem *p, int i)
{
    p->a[i].act = true;
    return i;
}
int act1(struct problem *p, const char *name, enum role role, int64_t a) { return activation(p, add1(p, name, role, a)); }
int act2(struct problem *p, const char *name, enum role role, int64_t a, int64_t b) { return activation(p, add2(p, name, role, a, b)); }
int act3(struct problem *p, const char *name, enum role role, int64_t a, int64_t b, int64_t c) { return activation(p, add3(p, name, role, a, b, c)); }

void *hold(struct problem *p, size_t bytes)
{
    void *m = pw_alloc_zero(bytes ? bytes : 1, 1);
    if (!m || p->n_memory == (int)(sizeof p->memory / sizeof *p->memory)) abort();
    return p->memory[p->n_memory++] = m;
}
int32_t *ids(struct problem *p, int64_t n, int64_t low, int64_t high, struct pw_rng *r)
{
    int32_t *id = hold(p, (size_t)n * sizeof *id);
    for (int64_t i = 0; i < n; i++) id[i] = (int32_t)(low + (int64_t)pw_rng_below(r, (uint64_t)(high - low)));
    p->ids = pw_tensor1(id, PW_I32, n);
    return id;
}

static const struct { const struct op_case *cases; const int *n; } tables[] = {
    { op_cases_elements, &op_cases_elements_n }, { op_cases_attention, &op_cases_attention_n }, { op_cases_linear, &op_cases_linear_n },
    { op_cases_experts, &op_cases_experts_n }, { op_cases_dora, &op_cases_dora_n },
};

int op_cases_count(void)
{
    int n = 0;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) n += *tables[i].n;
    return n;
}

const struct op_case *op_cases_at(int i)
{
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
        if (i < *tables[k].n) return &tables[k].cases[i];
        i -= *tables[k].n;
    }
    return NULL;
}
