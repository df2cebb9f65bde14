/* The demo's helper program: makes the demo's text and tokenizer, and sums its results up. Used by tools/demo/run and make demo-base. */
#include <string.h>

#include "base/error.h"
#include "base/text.h"
#include "tools/demo/demo.h"

int main(int argc, char **argv)
{
    int64_t vocab = 0;
    int rc = 2;
    if (argc == 3 && strcmp(argv[1], "tokenizer") == 0 && pw_parse_i64(argv[2], &vocab) == 0 && vocab > 300 && vocab < 65536)
        rc = pw_demo_tokenizer(stdin, (int)vocab);
    else if (argc > 1 && (strcmp(argv[1], "result") == 0 || strcmp(argv[1], "quality") == 0))
        rc = pw_demo_result(argc - 1, argv + 1);
    else if (argc > 1)
        rc = pw_demo_text(argc - 1, argv + 1);
    if (rc == 2)
        fprintf(stderr, "usage: demo corpus DOCS SEED | town train|shuffled|test SEED | tokenizer VOCAB <corpus\n"
                        "       demo quality BASE.json TUNED.json SHUFFLED.json | result BASE.json TUNED.json SHUFFLED.json RANK.json SECONDS OUT\n");
    if (rc < 0)
        fprintf(stderr, "demo: %s\n", pw_error_text());
    return rc < 0 ? pw_error_exit_status(rc) : rc;
}
