/* See limit.h. */
#include "base/limit.h"

#include "base/error.h"
#include "base/memory.h"
#include "base/text.h"

int pw_limit_check(uint64_t limit, const struct pw_limit_part *parts, int n, const char *way_out)
{
    struct pw_buf list = { 0 };
    char text[32], most[32];
    size_t sum = 0;
    if (limit == 0) return 0;
    for (int i = 0; i < n; i++) {
        if (!pw_add_size(sum, parts[i].bytes, &sum)) sum = SIZE_MAX;
        pw_format_bytes(text, parts[i].bytes);
        pw_buf_printf(&list, "%s%s %s", i ? ", " : "", parts[i].name, text);
    }
    int rc = pw_buf_status(&list);
    if (rc == 0 && sum > limit) {
        pw_format_bytes(text, sum);
        pw_format_bytes(most, limit);
        rc = pw_error(PW_E_REFUSED, "it does not fit into --memory: planned %s (%s), at most %s", text, list.data ? list.data : "", most);
        pw_error_hint("--memory %zu is the least that would do%s%s", sum, way_out ? "; or " : "", way_out ? way_out : "");
    }
    pw_buf_free(&list);
    return rc;
}
