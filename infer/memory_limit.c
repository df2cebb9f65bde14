/* The plan of what is not training, against --memory (see the header). */
#include "infer/memory_limit.h"

#include "base/limit.h"
#include "infer/session.h"

/* Buffers that the dense products take when they first run, measured on 1 to 8 threads. */
#define LIBRARY_BYTES ((size_t)4 << 20)

static int check(const struct pw_model *m, const struct pw_limit_part *parts, int n)
{
    return pw_limit_check(m->memory, parts, n, "--type nf4, a smaller --ctx, or fewer and shorter texts at once");
}

int pw_memory_check_weights(const struct pw_model *m, size_t weights)
{
    if (m->memory == 0)
        return 0;
    const struct pw_limit_part there[] = {{"weights", weights}};
    if (!m->dev->host)
        return check(m, there, 1);
    const struct pw_limit_part parts[] = {{"program", m->program_bytes + pw_rss_anon_bytes()}, {"model file", m->mapped_bytes}, {"weights", weights}};
    return check(m, parts, 3);
}

int pw_memory_check_adapter(const struct pw_model *m, size_t stored, size_t made)
{
    if (m->memory == 0)
        return 0;
    const struct pw_limit_part there[] = {{"weights", m->pool.bytes}, {"adapters before it", m->adapter_bytes}, {"the adapter", made}};
    if (!m->dev->host)
        return check(m, there, 3);
    const struct pw_limit_part parts[] = {{"program with weights in memory", m->program_bytes + pw_rss_anon_bytes()}, {"model file", m->mapped_bytes}, {"the adapter's file", stored}, {"the adapter", made}};
    return check(m, parts, 4);
}

size_t pw_memory_need(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    const size_t session = m->pool.bytes + pw_session_bytes(m, rows, batch_tokens, max_seqs) + pw_session_scratch(m, rows, batch_tokens);
    return session + (m->dev->host ? m->program_bytes + pw_rss_anon_bytes() + m->mapped_bytes + LIBRARY_BYTES : pw_dev_held(m->dev));
}

int pw_memory_check_session(const struct pw_model *m, int64_t rows, int64_t batch_tokens, int max_seqs)
{
    if (m->memory == 0)
        return 0;
    const size_t scratch = pw_session_scratch(m, rows, batch_tokens);
    const size_t session = pw_session_bytes(m, rows, batch_tokens, max_seqs);
    const struct pw_limit_part there[] = {{"weights", m->pool.bytes}, {"adapters", m->adapter_bytes}, {"KV cache and activations", session}, {"scratch", scratch}};
    if (!m->dev->host)
        return check(m, there, 4);
    /* Weights made in memory and adapters are written by now: they are among the program's own pages. */
    const struct pw_limit_part parts[] = {{"program with weights in memory", m->program_bytes + pw_rss_anon_bytes()}, {"model file", m->mapped_bytes},
                                 {"libraries", LIBRARY_BYTES}, {"KV cache and activations", session},
                                 {"scratch", scratch}};
    return check(m, parts, 5);
}
