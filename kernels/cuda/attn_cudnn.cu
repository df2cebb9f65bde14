/* cuDNN behind attn_cudnn.h, through its backend API from C.
 *
 * The graph of a shape, as the library's engines for fused attention know it (b sequences, h query heads, g key heads, s rows at most):
 *
 *   S = Q K^T  ->  * scale  ->  [/ cap, tanh, * cap]  ->  rows and keys past a sequence's end: LOW  ->  key > row: LOW  ->  [key + window <= row: LOW]
 *     ->  m = max S, e = exp(S - m), l = sum e  ->  lse = m + log l,  P = e / l in bf16  ->  O = P V
 *
 * Nothing of it but Q, K, V, O and lse is in memory. Sequences lie one after the other: offsets of their first elements (`ragged`) and their lengths
 * are read from the device, so b and s are bounds, as Transformer Engine has them too (it puts the most tokens for s and a bucket for b).
 *
 * Engines: those the library proposes (heuristics A, then fallback), in its order, the first that becomes a plan within SDPA_WORKSPACE_MOST and does not say of
 * itself that its sums have no fixed order. NVIDIA's table of attention lists the forward as deterministic on every architecture; its page on determinism
 * promises equal bytes for equal calls, not for a sequence in other company. 9.18.1 is the first whose ragged rows serve cards before Hopper. */
#include "kernels/cuda/attn_cudnn.h"

#include <string.h>
#include "base/error.h"
#include "base/memory.h"

#if defined(__has_include) && __has_include(<cudnn.h>)
#include <cudnn.h>
#endif

#if !defined(CUDNN_VERSION) || CUDNN_VERSION < 91801
void *sdpa_new(const char *) { return pw_alloc_zero(1, 1); }
void sdpa_free(void *library) { pw_free(library); }
int64_t sdpa_version(void *, const char **why)
{
    if (why) *why = "this program was built without the headers of cuDNN 9.18.1 or later";
    return 0;
}
int sdpa_plan(void *, const struct pw_attn_shape *, bool *there, size_t *workspace) { return *there = false, *workspace = 0, 0; }
size_t sdpa_workspace(const void *, const struct pw_attn_shape *) { return 0; }
int sdpa_run(void *, const char *op, const struct pw_attn_shape *, const struct sdpa_call *) { return pw_error(PW_E_FAIL, "%s: built without cuDNN", op); }
int sdpa_engines(void *, const struct pw_attn_shape *, const char *, int *, int *) { return pw_error(PW_E_UNSUPPORTED, "built without cuDNN"); }
#else
#include <dlfcn.h>

enum { OLDEST = 91801, PLANS = 256, PARTS = 160, PROPOSALS = 16 };
/* The library's functions that are used, each found by name. */
#define FUNCTIONS(each)                                                                                                                   \
    each(GetVersion) each(GetErrorString) each(GetLastErrorString) each(Create) each(Destroy) each(SetStream) each(BackendCreateDescriptor)  \
    each(BackendDestroyDescriptor) each(BackendSetAttribute) each(BackendGetAttribute) each(BackendFinalize) each(BackendExecute)
struct functions {
#define EACH(name) decltype(&cudnn##name) name;
    FUNCTIONS(EACH)
#undef EACH
};
struct plan { struct pw_attn_shape shape; cudnnBackendDescriptor_t plan, config; size_t workspace; }; /* plan NULL: there is none */
struct library {
    const char *kind, *absent;
    bool asked;
    int64_t version;
    struct functions f;
    cudnnHandle_t handle;
    struct plan plans[PLANS];
    int n_plans;
};

static int failed(struct library *l, const char *what, cudnnStatus_t s)
{
    char more[512] = "";
    if (s == CUDNN_STATUS_SUCCESS) return 0;
    l->f.GetLastErrorString(more, sizeof more);
    return pw_error(PW_E_FAIL, "device %s: cuDNN: %s: %s%s%s", l->kind, what, l->f.GetErrorString(s), more[0] ? ": " : "", more);
}

/* ---- the library ---- */

void *sdpa_new(const char *kind)
{
    struct library *l = (struct library *)pw_alloc_zero(1, sizeof *l);
    if (l) l->kind = kind;
    return l;
}
static void plan_free(struct library *l, struct plan *p)
{
    if (p->plan) (void)l->f.BackendDestroyDescriptor(p->plan);
    if (p->config) (void)l->f.BackendDestroyDescriptor(p->config);
    p->plan = p->config = NULL;
}
void sdpa_free(void *library)
{
    struct library *l = (struct library *)library;
    if (!l) return;
    for (int i = 0; i < l->n_plans; i++) plan_free(l, &l->plans[i]);
    if (l->handle) (void)l->f.Destroy(l->handle);
    pw_free(l);
}

/* It stays loaded until the program ends, as plugins do: its threads and the driver's state outlive a device. */
static void look(struct library *l)
{
    void *file = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
    l->asked = true;
    l->absent = "libcudnn.so.9 is not on this machine";
    if (!file) return;
    l->absent = "libcudnn.so.9 lacks what is used of it";
#define EACH(name)                                              \
    {                                                           \
        void *at = dlsym(file, "cudnn" #name);                  \
        if (!at) return;                                        \
        memcpy(&l->f.name, &at, sizeof at);                     \
    }
    FUNCTIONS(EACH)
#undef EACH
    const int64_t version = (int64_t)l->f.GetVersion();
    l->absent = "libcudnn.so.9 is older than 9.18.1";
    if (version < OLDEST) return;
    l->absent = NULL;
    l->version = version;
}
int64_t sdpa_version(void *library, const char **why)
{
    struct library *l = (struct library *)library;
    if (!l->asked) look(l);
    if (why) *why = l->absent;
    return l->version;
}

/* ---- descriptors: all that a graph is made of, freed together ---- */

typedef cudnnBackendDescriptor_t desc;
struct parts {
    struct library *l;
    desc all[PARTS];
    int n, error;               /* the first error; then nothing more is made */
    int64_t next;               /* name of the next tensor that is not in memory */
    struct pw_attn_shape shape;
};

static desc made(struct parts *p, cudnnBackendDescriptorType_t type, const char *what)
{
    desc d = NULL;
    if (p->error == 0 && p->n == PARTS) p->error = pw_error(PW_E_FAIL, "a graph of more than %d parts", PARTS);
    if (p->error == 0) p->error = failed(p->l, what, p->l->f.BackendCreateDescriptor(type, &d));
    if (p->error == 0) p->all[p->n++] = d;
    return d;
}
static void set(struct parts *p, desc d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n, const void *value, const char *what)
{
    if (p->error == 0) p->error = failed(p->l, what, p->l->f.BackendSetAttribute(d, name, type, n, value));
}
static void set_desc(struct parts *p, desc d, cudnnBackendAttributeName_t name, desc value, const char *what) { set(p, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value, what); }
static void done(struct parts *p, desc d, const char *what)
{
    if (p->error == 0) p->error = failed(p->l, what, p->l->f.BackendFinalize(d));
}
static void parts_free(struct parts *p)
{
    while (p->n > 0) (void)p->l->f.BackendDestroyDescriptor(p->all[--p->n]);
}

/* ---- tensors ---- */

/* Names of what is in memory, in the order of a call. */
enum uid { UID_NONE, UID_Q, UID_K, UID_V, UID_OUT, UID_LSE, UID_LENGTHS_Q, UID_LENGTHS_KV, UID_Q_AT, UID_KV_AT, UID_LSE_AT, UID_SCALE, UID_LOW, UID_WINDOW, UID_CAP, UID_VIRTUAL = 100 };
struct dims { int64_t n[4]; };

static desc tensor(struct parts *p, int64_t uid, cudnnDataType_t type, struct dims size, struct dims stride, desc ragged, bool by_value)
{
    const int64_t align = uid == UID_Q || uid == UID_K || uid == UID_V || uid == UID_OUT ? 16 : 4, name = uid ? uid : p->next++;
    const bool is_virtual = uid == UID_NONE, yes = true;
    desc d = made(p, CUDNN_BACKEND_TENSOR_DESCRIPTOR, "a tensor");
    set(p, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &name, "a tensor's name");
    set(p, d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type, "a tensor's type");
    set(p, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, size.n, "a tensor's size");
    set(p, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, stride.n, "a tensor's strides");
    set(p, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &align, "a tensor's alignment");
    if (is_virtual) set(p, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes, "a tensor without memory");
    if (by_value) set(p, d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes, "a tensor by value");
    if (ragged) set_desc(p, d, CUDNN_ATTR_TENSOR_RAGGED_OFFSET_DESC, ragged, "a tensor's offsets");
    done(p, d, "a tensor");
    return d;
}
static desc list(struct parts *p, int64_t uid, int64_t n) { return tensor(p, uid, CUDNN_DATA_INT32, {{n, 1, 1, 1}}, {{1, 1, 1, 1}}, NULL, false); }
static desc number(struct parts *p, int64_t uid) { return tensor(p, uid, CUDNN_DATA_FLOAT, {{1, 1, 1, 1}}, {{1, 1, 1, 1}}, NULL, true); }
static desc scores(struct parts *p, cudnnDataType_t type)
{
    const int64_t b = p->shape.sequences, h = p->shape.heads, s = p->shape.rows;
    return tensor(p, UID_NONE, type, {{b, h, s, s}}, {{h * s * s, s * s, s, 1}}, NULL, false);
}
static desc a_row(struct parts *p)
{
    const int64_t b = p->shape.sequences, h = p->shape.heads, s = p->shape.rows;
    return tensor(p, UID_NONE, CUDNN_DATA_FLOAT, {{b, h, s, 1}}, {{h * s, s, 1, 1}}, NULL, false);
}

/* ---- operations ---- */

struct ops { desc all[64]; int n; };
static void add(struct ops *ops, desc op) { ops->all[ops->n++] = op; }

static void product(struct parts *p, struct ops *ops, desc c, desc a, desc b, desc m, desc n, desc k, bool padded)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    const double zero = 0;
    desc kind = made(p, CUDNN_BACKEND_MATMUL_DESCRIPTOR, "a product"), op = made(p, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, "a product");
    set(p, kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32, "a product's sums");
    if (padded) set(p, kind, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &zero, "a product's padding");
    done(p, kind, "a product");
    set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a, "a product's factor");
    set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b, "a product's factor");
    set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c, "a product's result");
    set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind, "a product");
    if (m) set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m, "a product's lengths");
    if (n) set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n, "a product's lengths");
    if (k) set_desc(p, op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k, "a product's lengths");
    done(p, op, "a product");
    add(ops, op);
}

/* y = mode(x, b, t); b and t may be NULL */
static desc pointwise(struct parts *p, struct ops *ops, cudnnPointwiseMode_t mode, cudnnDataType_t compute, desc y, desc x, desc b, desc t, int64_t axis)
{
    desc kind = made(p, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, "an operation"), op = made(p, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, "an operation");
    set(p, kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode, "an operation's kind");
    set(p, kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &compute, "an operation's type");
    if (axis >= 0) set(p, kind, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis, "an operation's axis");
    done(p, kind, "an operation");
    set_desc(p, op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind, "an operation");
    set_desc(p, op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x, "an operation's input");
    if (b) set_desc(p, op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b, "an operation's input");
    if (t) set_desc(p, op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t, "an operation's input");
    set_desc(p, op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y, "an operation's result");
    done(p, op, "an operation");
    add(ops, op);
    return y;
}
static desc number_of(struct parts *p, struct ops *ops, cudnnPointwiseMode_t mode, desc x, desc b) { return pointwise(p, ops, mode, CUDNN_DATA_FLOAT, scores(p, CUDNN_DATA_FLOAT), x, b, NULL, -1); }
static desc index_of(struct parts *p, struct ops *ops, desc x, int64_t axis, cudnnDataType_t compute)
{
    return pointwise(p, ops, CUDNN_POINTWISE_GEN_INDEX, compute, scores(p, CUDNN_DATA_INT32), x, NULL, NULL, axis);
}
static desc compared(struct parts *p, struct ops *ops, cudnnPointwiseMode_t mode, desc a, desc b)
{
    return pointwise(p, ops, mode, CUDNN_DATA_BOOLEAN, scores(p, CUDNN_DATA_BOOLEAN), a, b, NULL, -1);
}
/* x where seen, LOW elsewhere */
static desc masked(struct parts *p, struct ops *ops, desc x, desc low, desc seen) { return pointwise(p, ops, CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT, scores(p, CUDNN_DATA_FLOAT), x, low, seen, -1); }

static desc reduced(struct parts *p, struct ops *ops, cudnnReduceTensorOp_t how, desc y, desc x)
{
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    desc kind = made(p, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, "a reduction"), op = made(p, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, "a reduction");
    set(p, kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &how, "a reduction's kind");
    set(p, kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &f32, "a reduction's sums");
    done(p, kind, "a reduction");
    set_desc(p, op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind, "a reduction");
    set_desc(p, op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x, "a reduction's input");
    set_desc(p, op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y, "a reduction's result");
    done(p, op, "a reduction");
    add(ops, op);
    return y;
}

/* ---- the graph ---- */

static desc attention(struct parts *p)
{
    const int64_t b = p->shape.sequences, h = p->shape.heads, g = p->shape.groups, s = p->shape.rows, d = p->shape.head_dim;
    const cudnnDataType_t f32 = CUDNN_DATA_FLOAT;
    struct ops ops = {};
    p->next = UID_VIRTUAL;
    const desc q_at = list(p, UID_Q_AT, b + 1), kv_at = list(p, UID_KV_AT, b + 1), lse_at = list(p, UID_LSE_AT, b + 1);
    const desc n_q = list(p, UID_LENGTHS_Q, b), n_kv = list(p, UID_LENGTHS_KV, b), low = number(p, UID_LOW);
    const desc q = tensor(p, UID_Q, CUDNN_DATA_BFLOAT16, {{b, h, s, d}}, {{s * h * d, d, h * d, 1}}, q_at, false);
    const desc k = tensor(p, UID_K, CUDNN_DATA_BFLOAT16, {{b, g, d, s}}, {{s * g * d, d, 1, g * d}}, kv_at, false); /* turned */
    const desc v = tensor(p, UID_V, CUDNN_DATA_BFLOAT16, {{b, g, s, d}}, {{s * g * d, d, g * d, 1}}, kv_at, false);
    const desc out = tensor(p, UID_OUT, CUDNN_DATA_BFLOAT16, {{b, h, s, d}}, {{s * h * d, d, h * d, 1}}, q_at, false);
    const desc lse = tensor(p, UID_LSE, f32, {{b, h, s, 1}}, {{s * h, 1, h, 1}}, lse_at, false);

    desc x = scores(p, f32);
    product(p, &ops, x, q, k, n_q, n_kv, NULL, true);
    x = number_of(p, &ops, CUDNN_POINTWISE_MUL, x, number(p, UID_SCALE));
    if (p->shape.softcap > 0) {
        const desc cap = number(p, UID_CAP);
        x = number_of(p, &ops, CUDNN_POINTWISE_DIV, x, cap);
        x = number_of(p, &ops, CUDNN_POINTWISE_TANH_FWD, x, NULL);
        x = number_of(p, &ops, CUDNN_POINTWISE_MUL, x, cap);
    }
    { /* past the end */
        const desc row = index_of(p, &ops, x, 2, CUDNN_DATA_INT32), key = index_of(p, &ops, x, 3, CUDNN_DATA_INT32);
        const desc row_is = compared(p, &ops, CUDNN_POINTWISE_CMP_LT, row, n_q), key_is = compared(p, &ops, CUDNN_POINTWISE_CMP_LT, key, n_kv);
        x = masked(p, &ops, x, low, compared(p, &ops, CUDNN_POINTWISE_LOGICAL_AND, row_is, key_is));
    }
    { /* after the query */
        const desc row = index_of(p, &ops, x, 2, f32), key = index_of(p, &ops, x, 3, f32);
        x = masked(p, &ops, x, low, compared(p, &ops, CUDNN_POINTWISE_CMP_GE, row, key));
    }
    if (p->shape.window > 0) { /* before the window */
        const desc row = index_of(p, &ops, x, 2, f32), key = index_of(p, &ops, x, 3, f32);
        const desc end = pointwise(p, &ops, CUDNN_POINTWISE_ADD, f32, scores(p, f32), key, number(p, UID_WINDOW), NULL, 3);
        x = masked(p, &ops, x, low, compared(p, &ops, CUDNN_POINTWISE_CMP_GT, end, row));
    }
    const desc most = reduced(p, &ops, CUDNN_REDUCE_TENSOR_MAX, a_row(p), x);
    x = number_of(p, &ops, CUDNN_POINTWISE_SUB, x, most);
    x = number_of(p, &ops, CUDNN_POINTWISE_EXP, x, NULL);
    const desc sum = reduced(p, &ops, CUDNN_REDUCE_TENSOR_ADD, a_row(p), x), log = pointwise(p, &ops, CUDNN_POINTWISE_LOG, f32, a_row(p), sum, NULL, NULL, -1);
    pointwise(p, &ops, CUDNN_POINTWISE_ADD, f32, lse, most, log, NULL, -1);
    x = pointwise(p, &ops, CUDNN_POINTWISE_DIV, f32, scores(p, CUDNN_DATA_BFLOAT16), x, sum, NULL, -1);
    product(p, &ops, out, x, v, n_q, NULL, n_kv, false);

    const desc graph = made(p, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, "a graph");
    set(p, graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, ops.n, ops.all, "a graph's operations");
    return graph;
}

/* ---- engines ---- */

/* Header 9.19 marks the two as old without another way to say it: a graph and a plan for the card of a handle. */
static const cudnnBackendAttributeName_t GRAPH_HANDLE = (cudnnBackendAttributeName_t)800, PLAN_HANDLE = (cudnnBackendAttributeName_t)400;

/* What the heuristics of a mode propose for a finished graph, into p's parts; 0 of them is no error. properties: of a card that is not there, or NULL. */
static int proposals(struct parts *p, desc graph, desc properties, cudnnBackendHeurMode_t mode, desc out[PROPOSALS], int64_t *n)
{
    *n = 0;
    const desc heuristics = made(p, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, "heuristics");
    set_desc(p, heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph, "a graph for heuristics");
    set(p, heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode, "heuristics' mode");
    if (properties) set_desc(p, heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, properties, "a card's properties for heuristics");
    for (int i = 0; i < PROPOSALS; i++) out[i] = made(p, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, "an engine");
    PW_PASS(p->error);
    if (p->l->f.BackendFinalize(heuristics) != CUDNN_STATUS_SUCCESS) return 0; /* how it says that it has none */
    if (p->l->f.BackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, PROPOSALS, n, out) != CUDNN_STATUS_SUCCESS) *n = 0;
    if (*n > PROPOSALS) *n = PROPOSALS;
    return 0;
}

/* Whether the engine of a proposal says of itself that its sums have no fixed order. */
static int without_order(struct parts *p, desc config, bool *yes)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    int64_t n = 0;
    desc engine = made(p, CUDNN_BACKEND_ENGINE_DESCRIPTOR, "an engine");
    *yes = false;
    PW_PASS(p->error);
    PW_PASS(failed(p->l, "an engine of a proposal", p->l->f.BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine)));
    PW_PASS(failed(p->l, "an engine's notes", p->l->f.BackendGetAttribute(engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes)));
    for (int64_t i = 0; i < n && i < CUDNN_NUMERICAL_NOTE_TYPE_COUNT; i++) *yes = *yes || notes[i] == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC;
    return 0;
}

static const cudnnBackendHeurMode_t modes[] = {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK};
enum { MODES = 2 };

static bool serves(const struct pw_attn_shape *s) /* what the graph can say: 8 elements are 16 bytes, and offsets are 32 bits */
{
    return s->head_dim % 8 == 0 && s->head_dim <= 256 && s->rows * s->heads * s->head_dim <= INT32_MAX;
}

/* A proposal as a plan, when it becomes one: *plan stays NULL else. */
static int plan_of(struct parts *p, desc config, desc *plan, size_t *workspace)
{
    struct library *l = p->l;
    desc d = NULL;
    bool unordered;
    int64_t bytes = 0, n = 0;
    PW_PASS(without_order(p, config, &unordered));
    if (unordered) return 0;
    PW_PASS(failed(l, "a plan", l->f.BackendCreateDescriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &d)));
    const bool made = l->f.BackendSetAttribute(d, PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &l->handle) == CUDNN_STATUS_SUCCESS &&
                      l->f.BackendSetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &config) == CUDNN_STATUS_SUCCESS &&
                      l->f.BackendFinalize(d) == CUDNN_STATUS_SUCCESS &&
                      l->f.BackendGetAttribute(d, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &n, &bytes) == CUDNN_STATUS_SUCCESS;
    if (made && bytes >= 0 && bytes <= SDPA_WORKSPACE_MOST) *plan = d, *workspace = (size_t)bytes;
    else (void)l->f.BackendDestroyDescriptor(d);
    return 0;
}

static int make_plan(struct library *l, struct plan *out)
{
    struct parts p = {};
    p.l = l;
    p.shape = out->shape;
    const desc graph = attention(&p);
    set(&p, graph, GRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &l->handle, "a graph's handle");
    int rc = p.error;
    if (rc == 0 && l->f.BackendFinalize(graph) == CUDNN_STATUS_SUCCESS)
        for (int m = 0; m < MODES && rc == 0 && !out->plan; m++) {
            desc config[PROPOSALS];
            int64_t n = 0;
            rc = proposals(&p, graph, NULL, modes[m], config, &n);
            for (int64_t i = 0; i < n && rc == 0 && !out->plan; i++) rc = plan_of(&p, config[i], &out->plan, &out->workspace);
        }
    parts_free(&p);
    return rc;
}

static struct plan *find(struct library *l, const struct pw_attn_shape *shape)
{
    for (int i = 0; i < l->n_plans; i++)
        if (pw_attn_shape_same(&l->plans[i].shape, shape)) return &l->plans[i];
    return NULL;
}

int sdpa_plan(void *library, const struct pw_attn_shape *shape, bool *there, size_t *workspace)
{
    struct library *l = (struct library *)library;
    *there = false;
    *workspace = 0;
    if (sdpa_version(l, NULL) == 0 || !serves(shape)) return 0;
    struct plan *p = find(l, shape);
    if (!p) {
        if (!l->handle) PW_PASS(failed(l, "making a handle", l->f.Create(&l->handle)));
        PW_CHECK(l->n_plans < PLANS, PW_E_FAIL, "device %s: more than %d shapes of attention", l->kind, PLANS);
        p = &l->plans[l->n_plans];
        memset(p, 0, sizeof *p);
        p->shape = *shape;
        PW_PASS(make_plan(l, p));
        l->n_plans++;
    }
    *there = p->plan != NULL;
    *workspace = p->workspace;
    return 0;
}
size_t sdpa_workspace(const void *library, const struct pw_attn_shape *shape)
{
    const struct plan *p = find((struct library *)library, shape);
    return p ? p->workspace : 0;
}

/* ---- a call ---- */

/* What the graph's names stand for in a call. values: memory of the host for what goes by value, as long as the pack is used. */
struct values { float scale, low, window, cap; };
static desc pack_of(struct parts *parts, const struct pw_attn_shape *shape, const struct sdpa_call *c, struct values *values)
{
    /* -2^30: no score comes near, and a row of nothing else has no NaN */
    *values = {c->scale, -1024.0f * 1024.0f * 1024.0f, (float)shape->window, (float)shape->softcap};
    const struct { int64_t uid; const void *at; bool there; } all[] = {
        {UID_Q, c->q, true}, {UID_K, c->k, true}, {UID_V, c->v, true}, {UID_OUT, c->out, true}, {UID_LSE, c->lse, true}, {UID_LENGTHS_Q, c->lengths, true},
        {UID_LENGTHS_KV, c->lengths, true}, {UID_Q_AT, c->q_at, true}, {UID_KV_AT, c->kv_at, true}, {UID_LSE_AT, c->lse_at, true}, {UID_SCALE, &values->scale, true},
        {UID_LOW, &values->low, true}, {UID_WINDOW, &values->window, shape->window > 0}, {UID_CAP, &values->cap, shape->softcap > 0},
    };
    int64_t uid[sizeof all / sizeof *all], n = 0;
    const void *at[sizeof all / sizeof *all];
    for (const auto &one : all)
        if (one.there) uid[n] = one.uid, at[n++] = one.at;
    const desc pack = made(parts, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, "a call");
    set(parts, pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uid, "a call's names");
    set(parts, pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, at, "a call's memory");
    set(parts, pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &c->workspace, "a call's workspace");
    done(parts, pack, "a call");
    return pack;
}

int sdpa_run(void *library, const char *op, const struct pw_attn_shape *shape, const struct sdpa_call *c)
{
    struct library *l = (struct library *)library;
    struct plan *p = find(l, shape);
    struct values values;
    struct parts parts = {};
    PW_CHECK(p && p->plan, PW_E_FAIL, "%s: device %s: cuDNN has no plan for %lld rows, %d and %d heads of %d", op, l->kind, (long long)shape->rows, shape->heads, shape->groups, shape->head_dim);
    parts.l = l;
    const desc pack = pack_of(&parts, shape, c, &values);
    if (parts.error == 0) parts.error = failed(l, "the stream", l->f.SetStream(l->handle, (cudaStream_t)c->stream));
    if (parts.error == 0 && failed(l, "running attention", l->f.BackendExecute(l->handle, p->plan, pack)) < 0) parts.error = pw_error(PW_E_FAIL, "%s: %s", op, pw_error_text());
    parts_free(&parts);
    return parts.error;
}

/* ---- without a card ---- */

/* A proposal is a guess: whether its engine runs the graph on the card it says when it is finished for both. */
static int says_yes(struct parts *p, desc graph, desc card, desc config, bool *yes)
{
    const struct functions *f = &p->l->f;
    int64_t n = 0, index = -1;
    desc proposed = made(p, CUDNN_BACKEND_ENGINE_DESCRIPTOR, "an engine"), engine = made(p, CUDNN_BACKEND_ENGINE_DESCRIPTOR, "an engine");
    PW_PASS(p->error);
    PW_PASS(failed(p->l, "an engine of a proposal", f->BackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &proposed)));
    PW_PASS(failed(p->l, "an engine's number", f->BackendGetAttribute(proposed, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &n, &index)));
    set_desc(p, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, graph, "an engine's graph");
    set(p, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &index, "an engine's number");
    set_desc(p, engine, CUDNN_ATTR_ENGINE_DEVICEPROP, card, "a card's properties for an engine");
    PW_PASS(p->error);
    *yes = f->BackendFinalize(engine) == CUDNN_STATUS_SUCCESS;
    return 0;
}
int sdpa_engines(void *library, const struct pw_attn_shape *shape, const char *properties, int *engines, int *unordered)
{
    struct library *l = (struct library *)library;
    struct parts p = {};
    const char *why = NULL;
    *engines = *unordered = 0;
    PW_CHECK(sdpa_version(l, &why) != 0, PW_E_UNSUPPORTED, "%s", why);
    if (!serves(shape)) return 0;
    p.l = l;
    p.shape = *shape;
    const desc card = made(&p, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, "a card's properties");
    set(&p, card, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)strlen(properties), properties, "a card's properties");
    done(&p, card, "a card's properties");
    const desc graph = attention(&p);
    done(&p, graph, "a graph");
    struct values values;
    const struct sdpa_call call = {&p, &p, &p, &p, (float *)&p, (const int32_t *)&p, (const int32_t *)&p, (const int32_t *)&p, (const int32_t *)&p, 1.0f, &p, NULL}; /* named, never read */
    (void)pack_of(&p, shape, &call, &values);
    int rc = p.error;
    for (int m = 0; m < MODES && rc == 0; m++) {
        desc config[PROPOSALS];
        int64_t n = 0;
        rc = proposals(&p, graph, card, modes[m], config, &n);
        for (int64_t i = 0; i < n && rc == 0; i++) {
            bool yes = false, runs = false;
            rc = without_order(&p, config[i], &yes);
            if (rc == 0) rc = says_yes(&p, graph, card, config[i], &runs);
            *engines += runs;
            *unordered += runs && yes;
        }
    }
    parts_free(&p);
    return rc;
}
#endif
