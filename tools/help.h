/* Finding commands by name, and the texts made from the command tables: help, completion, manual pages. */
#ifndef PW_TOOLS_HELP_H
#define PW_TOOLS_HELP_H
#include "tools/cmd.h"

enum { PW_MAX_COMMANDS = 128 };
size_t pw_commands_all(const struct pw_command *list[PW_MAX_COMMANDS]); /* every command, in the order of the help; how many */
/* The command that argv begins with; words = how many of argv its name takes. NULL: none. */
const struct pw_command *pw_command_find(int argc, char **argv, int *words);
int pw_command_unknown(int argc, char **argv);  /* PW_E_USAGE, with the nearest name */
int pw_help(int argc, char **argv, const struct pw_option *common, struct pw_buf *out); /* argv: a command's words, or nothing */
int pw_help_completion(const char *shell, const struct pw_option *common, struct pw_buf *out); /* bash, zsh or fish; completion.c */
#endif
