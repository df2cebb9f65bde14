/* Commands: one row each. tools/main.c parses, dispatches, prints the error trail and chooses the exit status; a command's run function
 * returns 0 or a negative code and writes its result to `out`, which reaches stdout only when it returned 0 (so a failure leaves stdout
 * empty). Commands that stream (chat, run without --json, one object a line) set `streams` and print themselves through pw_cmd_emit. */
#ifndef PW_TOOLS_CMD_H
#define PW_TOOLS_CMD_H

#include <stdbool.h>
#include <stdio.h>
#include "base/error.h"
#include "base/options.h"
#include "base/progress.h"
#include "base/value.h"
#include "kernels/dev.h"

struct pw_common {             /* options of every command, from one shared table in tools/main.c */
    const char *device;        /* "auto" */
    int64_t threads, seed, ctx;
    bool seed_given;
    uint64_t memory;           /* 0 = no limit */
    bool json, quiet, verbose, help, force;  /* help: never seen by a command, main() answers it */
    const char *type;          /* quantise while loading, "" = as stored */
    bool double_quant;
    const char *products;      /* file of measured choices, NULL: the one in the cache */
    const char *cache_type;    /* of keys and values, "auto" = as the device computes */
    struct pw_strings adapters;/* PATH[:SCALE] */
    const char *tokenizer;
};
struct pw_cmd {                /* what run() gets */
    const struct pw_common *common;
    void *options;             /* the command's own struct, defaults filled in */
    struct pw_args args;       /* what is not an option */
    struct pw_progress *progress;
    struct pw_buf *out;        /* the result */
    bool many_rows;            /* of the command */
};
struct pw_command {
    const char *name;          /* "vote rank" */
    const char *usage;         /* "LEDGER [--method M]" */
    const char *summary;       /* one line */
    const char *text;          /* the manual's paragraphs, may be NULL */
    const struct pw_option *options;
    size_t options_bytes;      /* sizeof the options struct */
    int min_args, max_args;    /* max -1 = any */
    bool streams;
    int (*run)(struct pw_cmd *c);
    bool many_rows;            /* its calls have many rows at a time: see kernels/dev.h */
    bool plans;                /* it computes with a model, and holds --memory against a plan. Without this the limit is kept while it works: base/limit.h */
};
/* Each tools/cmd_<subject>.c defines a table that ends with a NULL name; tools/main.c lists the tables. */
extern const struct pw_command pw_commands_vote[], pw_commands_tokenize[], pw_commands_model[], pw_commands_quant[], pw_commands_lora[], pw_commands_verify[], pw_commands_export[], pw_commands_merge[],
    pw_commands_train[], pw_commands_eval[], pw_commands_run[], pw_commands_entry[], pw_commands_data[], pw_commands_score[], pw_commands_bench[];

int pw_cmd_emit(struct pw_cmd *c);                               /* writes and clears c->out now; a failed write is PW_E_IO */
void pw_cmd_plans(void);                                         /* of a command without `plans`: from here on it does, and the limit is not kept any more */
int pw_cmd_device(const struct pw_cmd *c, struct pw_dev **out);  /* opens --device with --threads; says on stderr what auto took */
int pw_cmd_host_device(const struct pw_cmd *c, struct pw_dev **out); /* for commands that work on host memory: another --device is refused */
void pw_interrupt_on(int number);                                /* this signal too is Ctrl-C */
const char *pw_cmd_cache(char path[4096], const char *name);     /* a folder of the user's cache, made when absent; NULL: there is no place for it */
bool pw_interrupted(void);                                       /* Ctrl-C was pressed (set by a handler that main installs) */
int pw_json_finish(struct pw_cmd *c, struct pw_json *w);         /* moves a finished JSON document and a newline into c->out */
void pw_json_begin(struct pw_json *w);                           /* '{' and "schema": 1 */
#endif
