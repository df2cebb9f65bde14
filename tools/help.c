/* Finding commands by name, and the texts made from the command tables: help and manual. Knows the rows, not what they do. */
#include "tools/help.h"

#include <string.h>

#pragma weak pw_commands_vote
#pragma weak pw_commands_tokenize
#pragma weak pw_commands_model
#pragma weak pw_commands_quant
#pragma weak pw_commands_lora
#pragma weak pw_commands_verify
#pragma weak pw_commands_export
#pragma weak pw_commands_merge
#pragma weak pw_commands_train
#pragma weak pw_commands_eval
#pragma weak pw_commands_run
#pragma weak pw_commands_entry
#pragma weak pw_commands_data
#pragma weak pw_commands_score
#pragma weak pw_commands_bench

static const struct { const char *title; const struct pw_command *commands; } groups[] = {
    {"Look at a model", pw_commands_model}, {NULL, pw_commands_score}, {NULL, pw_commands_tokenize}, {NULL, pw_commands_bench},
    {"Quantise, adapters", pw_commands_quant}, {NULL, pw_commands_lora}, {NULL, pw_commands_export}, {NULL, pw_commands_merge}, {NULL, pw_commands_verify},
    {"Train", pw_commands_data}, {NULL, pw_commands_train},
    {"Evaluate", pw_commands_eval},
    {"Talk to it", pw_commands_run},
    {"Contest", pw_commands_entry}, {NULL, pw_commands_vote},
};
enum { N_GROUPS = sizeof groups / sizeof groups[0] };

size_t pw_commands_all(const struct pw_command *list[PW_MAX_COMMANDS])
{
    size_t n = 0;
    for (int g = 0; g < N_GROUPS; g++)
        for (const struct pw_command *c = groups[g].commands; c && c->name && n < PW_MAX_COMMANDS; c++)
            list[n++] = c;
    return n;
}

/* Words of `name` that argv spells out in full; 0 when it does not. */
static int matching_words(const char *name, int argc, char **argv)
{
    int words = 0;
    while (*name) {
        size_t len = strcspn(name, " ");
        if (words >= argc || strlen(argv[words]) != len || strncmp(argv[words], name, len) != 0)
            return 0;
        words++;
        name += len + (name[len] == ' ');
    }
    return words;
}

const struct pw_command *pw_command_find(int argc, char **argv, int *words)
{
    const struct pw_command *list[PW_MAX_COMMANDS], *best = NULL;
    size_t n = pw_commands_all(list);
    *words = 0;
    for (size_t i = 0; i < n; i++) {
        int w = matching_words(list[i]->name, argc, argv);
        if (w > *words)
            best = list[i], *words = w;
    }
    return best;
}

/* The second words of the commands that begin with `first`, in `words`; how many. */
static size_t group_words(const char *first, const char *words[PW_MAX_COMMANDS])
{
    const struct pw_command *list[PW_MAX_COMMANDS];
    size_t n = pw_commands_all(list), inside = 0, len = strlen(first);
    for (size_t i = 0; i < n; i++)
        if (strncmp(list[i]->name, first, len) == 0 && list[i]->name[len] == ' ')
            words[inside++] = list[i]->name + len + 1;
    return inside;
}

/* 'vote' alone, or 'vote imprt': the way out names the commands of that group. */
static int unknown_in_group(const char *first, const char *second, const char *const *words, size_t n)
{
    const char *near = second ? pw_nearest(second, words, n) : NULL;
    char all[400] = "";
    for (size_t i = 0, at = 0; i < n && at < sizeof all; i++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", words[i]);
    int rc = second ? pw_error(PW_E_USAGE, "unknown command '%s %s'", first, second) : pw_error(PW_E_USAGE, "pw %s: which of its commands?", first);
    if (near)
        pw_error_hint("did you mean 'pw %s %s'?  it knows: %s", first, near, all);
    else
        pw_error_hint("'pw %s' knows: %s", first, all);
    return rc;
}

int pw_command_unknown(int argc, char **argv)
{
    const struct pw_command *list[PW_MAX_COMMANDS];
    const char *names[PW_MAX_COMMANDS];
    size_t n = pw_commands_all(list), inside = group_words(argv[0], names);
    if (inside)
        return unknown_in_group(argv[0], argc > 1 && argv[1][0] != '-' ? argv[1] : NULL, names, inside);
    for (size_t i = 0; i < n; i++)
        names[i] = list[i]->name;
    const char *near = pw_nearest(argv[0], names, n);
    int rc = pw_error(PW_E_USAGE, "unknown command '%s'", argv[0]);
    if (near)
        pw_error_hint("did you mean 'pw %s'?  'pw help' lists all commands", near);
    else
        pw_error_hint("'pw help' lists all commands");
    return rc;
}

static void help_all(struct pw_buf *out)
{
    pw_buf_str(out, "Pennyweight " PW_VERSION ": fine-tune language models on one card through 4-bit weights and low-rank adapters,\n"
                    "evaluate them, and count the coins of a contest.\n\nusage: pw COMMAND [OPTIONS] ...\n");
    for (int g = 0; g < N_GROUPS; g++) {
        if (groups[g].title)
            pw_buf_printf(out, "\n%s\n", groups[g].title);
        for (const struct pw_command *c = groups[g].commands; c && c->name; c++)
            pw_buf_printf(out, "  %-16s %s\n", c->name, c->summary);
    }
    pw_buf_str(out, "\n'pw help COMMAND' tells more; 'pw completion bash|zsh|fish' prints shell completion; 'pw --version'.\n");
}

/* The manual: every command's help as Markdown. */
static int manual(const struct pw_option *common, struct pw_buf *out)
{
    pw_buf_str(out, "# The commands of pw\n\nMade by `make docs` from the option tables; `pw help COMMAND` prints the same.\n");
    for (int g = 0; g < N_GROUPS; g++) {
        if (groups[g].title)
            pw_buf_printf(out, "\n## %s\n", groups[g].title);
        for (const struct pw_command *c = groups[g].commands; c && c->name; c++) {
            pw_buf_printf(out, "\n### pw %s\n\n%s.\n\n    pw %s %s\n", c->name, c->summary, c->name, c->usage);
            if (c->text)
                pw_buf_printf(out, "\n%s\n", c->text);
            if (c->options && c->options->name) {
                pw_buf_str(out, "\n```\n");
                pw_options_help(c->options, out);
                pw_buf_str(out, "```\n");
            }
        }
    }
    pw_buf_str(out, "\n## Options of every command\n\n```\n");
    pw_options_help(common, out);
    pw_buf_str(out, "```\n\n## Exit codes\n\n0 done, 1 failed, 2 wrong usage, 3 refused before the start, 130 interrupted with state saved.\n");
    return pw_buf_status(out);
}

int pw_help(int argc, char **argv, const struct pw_option *common, struct pw_buf *out)
{
    int words = 0;
    if (argc == 1 && strcmp(argv[0], "manual") == 0)
        return manual(common, out);
    if (argc == 0) {
        help_all(out);
        return pw_buf_status(out);
    }
    const struct pw_command *c = pw_command_find(argc, argv, &words);
    if (!c) {                   /* 'pw help vote': all of a group */
        const struct pw_command *list[PW_MAX_COMMANDS];
        size_t n = pw_commands_all(list), shown = 0, len = strlen(argv[0]);
        for (size_t i = 0; i < n; i++)
            if (strncmp(list[i]->name, argv[0], len) == 0 && list[i]->name[len] == ' ') {
                pw_buf_printf(out, "pw %s %s\n    %s\n", list[i]->name, list[i]->usage, list[i]->summary);
                shown++;
            }
        return shown ? pw_buf_status(out) : pw_command_unknown(argc, argv);
    }
    pw_buf_printf(out, "pw %s: %s\n\nusage: pw %s %s\n", c->name, c->summary, c->name, c->usage);
    if (c->text)
        pw_buf_printf(out, "\n%s\n", c->text);
    if (c->options && c->options->name) {
        pw_buf_str(out, "\nOptions\n");
        pw_options_help(c->options, out);
    }
    pw_buf_str(out, "\nOptions of every command\n");
    pw_options_help(common, out);
    return pw_buf_status(out);
}
