/* Completion for bash, zsh and fish, from the command and option tables. Each script completes, in this order: the command and its second
 * word, the choices of an option that has some, the options after a dash, and files. */
#include <string.h>

#include "tools/help.h"

struct names { const char *items[PW_MAX_COMMANDS]; size_t n; };

/* The first words of all commands, each once; `words` keeps their text. */
static void first_words(struct names *out, char words[PW_MAX_COMMANDS][32])
{
    const struct pw_command *list[PW_MAX_COMMANDS];
    size_t n = pw_commands_all(list);
    out->n = 0;
    for (size_t i = 0; i < n; i++) {
        bool known = false;
        snprintf(words[out->n], 32, "%.*s", (int)strcspn(list[i]->name, " "), list[i]->name);
        for (size_t k = 0; k < out->n; k++)
            known = known || strcmp(out->items[k], words[out->n]) == 0;
        if (!known) {
            out->items[out->n] = words[out->n];
            out->n++;
        }
    }
}

static bool is_of(const struct pw_command *c, const char *first)
{
    size_t n = strlen(first);
    return strncmp(c->name, first, n) == 0 && c->name[n] == ' ';
}

static void option_words(const struct pw_option *o, struct pw_buf *out)
{
    for (; o && o->name; o++)
        pw_buf_printf(out, " --%s", o->name);
}

static void choice_words(const struct pw_option *o, struct pw_buf *out)
{
    for (const char *c = o->choices; *c; c++)
        pw_buf_char(out, *c == '|' ? ' ' : *c);
}

/* The tables as a case of shell code that sets `words`: a form that bash and zsh both read. command: "vote rank"; before: the word before. */
static void shell_tables(const struct pw_option *common, const char *place, struct pw_buf *out)
{
    const struct pw_command *list[PW_MAX_COMMANDS];
    char text[PW_MAX_COMMANDS][32];
    struct names first;
    size_t n = pw_commands_all(list);
    first_words(&first, text);
    pw_buf_printf(out, "    if [[ %s == 1 ]]; then\n        words='help completion", place);
    for (size_t i = 0; i < first.n; i++)
        pw_buf_printf(out, " %s", first.items[i]);
    pw_buf_str(out, " --help --version'\n        return\n    fi\n    case $first in\n    completion) words='bash zsh fish'; return;;\n    help) words='");
    for (size_t i = 0; i < first.n; i++)
        pw_buf_printf(out, "%s%s", i ? " " : "", first.items[i]);
    pw_buf_str(out, "'; return;;\n");
    for (size_t i = 0; i < first.n; i++) {
        bool group = false;
        for (size_t k = 0; k < n; k++)
            if (is_of(list[k], first.items[i])) {
                if (!group)
                    pw_buf_printf(out, "    %s)\n        command=\"$first $second\"\n        if [[ %s == 2 ]]; then words='", first.items[i], place);
                pw_buf_printf(out, "%s%s", group ? " " : "", strchr(list[k]->name, ' ') + 1);
                group = true;
            }
        if (group)
            pw_buf_str(out, "'; return; fi;;\n");
    }
    pw_buf_str(out, "    esac\n    case \"$command $before\" in\n");
    for (size_t k = 0; k < n; k++)
        for (const struct pw_option *o = list[k]->options; o && o->name; o++)
            if (o->type == PW_OPT_CHOICE) {
                pw_buf_printf(out, "    '%s --%s') words='", list[k]->name, o->name);
                choice_words(o, out);
                pw_buf_str(out, "'; return;;\n");
            }
    pw_buf_str(out, "    esac\n    [[ $current == -* ]] || return 0\n    case $command in\n");
    for (size_t k = 0; k < n; k++) {
        pw_buf_printf(out, "    '%s') words='", list[k]->name);
        option_words(list[k]->options, out);
        option_words(common, out);
        pw_buf_str(out, "';;\n");
    }
    pw_buf_str(out, "    esac\n");
}

static void bash(const struct pw_option *common, struct pw_buf *out)
{
    pw_buf_str(out, "# bash completion of pw: source <(pw completion bash)\n_pw_words() {\n");
    shell_tables(common, "$COMP_CWORD", out);
    pw_buf_str(out, "}\n_pw() {\n"
                    "    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} first=${COMP_WORDS[1]} second=${COMP_WORDS[2]} words=\n"
                    "    local command=$first\n    _pw_words\n    COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n}\n"
                    "complete -o default -F _pw pw pennyweight\n");
}

static void zsh(const struct pw_option *common, struct pw_buf *out)
{
    pw_buf_str(out, "#compdef pw pennyweight\n# zsh completion of pw: source <(pw completion zsh), after compinit or without it\n_pw_words() {\n");
    shell_tables(common, "$((CURRENT - 1))", out);
    pw_buf_str(out, "}\n_pw() {\n"
                    "    local current before first second command list\n"
                    "    list=(\"${words[@]}\")\n    current=$list[CURRENT] before=$list[CURRENT-1] first=$list[2] second=$list[3] command=$list[2]\n"
                    "    local words=\n    _pw_words\n    if [[ -n $words ]]; then compadd -- ${=words}; else _files; fi\n}\n"
                    "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -D }\ncompdef _pw pw pennyweight\n");
}

/* Single quotes of fish: a quote and a backslash are escaped. */
static void fish_quoted(struct pw_buf *out, const char *text)
{
    pw_buf_char(out, '\'');
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            pw_buf_char(out, '\\');
        pw_buf_char(out, *text);
    }
    pw_buf_char(out, '\'');
}

static void fish_options(const char *condition, const struct pw_option *o, struct pw_buf *out)
{
    for (; o && o->name; o++) {
        pw_buf_printf(out, "complete -c pw -n \"%s\" -l %s", condition, o->name);
        if (o->letter)
            pw_buf_printf(out, " -s %c", o->letter);
        if (o->type == PW_OPT_CHOICE) {
            pw_buf_str(out, " -x -a '");
            choice_words(o, out);
            pw_buf_char(out, '\'');
        } else if (o->type != PW_OPT_FLAG)
            pw_buf_str(out, " -r");
        pw_buf_str(out, " -d ");
        fish_quoted(out, o->help ? o->help : "");
        pw_buf_char(out, '\n');
    }
}

static void fish(const struct pw_option *common, struct pw_buf *out)
{
    const struct pw_command *list[PW_MAX_COMMANDS];
    char text[PW_MAX_COMMANDS][32], condition[128];
    struct names first;
    size_t n = pw_commands_all(list);
    first_words(&first, text);
    pw_buf_str(out, "# fish completion of pw: pw completion fish | source\n"
                    "function __pw_at_word\n    set -l typed (commandline -opc)\n    test (count $typed) -eq (math (count $argv) + 1); or return 1\n"
                    "    test (count $argv) -eq 0; and return 0\n    test \"$typed[2..-1]\" = \"$argv\"\nend\n"
                    "function __pw_runs\n    set -l typed (commandline -opc)\n    set -l last (math (count $argv) + 1)\n    test (count $typed) -ge $last; or return 1\n"
                    "    test \"$typed[2..$last]\" = \"$argv\"\nend\n"
                    "complete -c pw -n __pw_at_word -f -a 'help completion'\ncomplete -c pw -n '__pw_at_word completion' -f -a 'bash zsh fish'\n");
    for (size_t i = 0; i < first.n; i++) {
        const char *summary = "";
        for (size_t k = 0; k < n; k++)
            if (strcmp(list[k]->name, first.items[i]) == 0)
                summary = list[k]->summary;
        for (int help = 0; help < 2; help++) {
            pw_buf_printf(out, "complete -c pw -n %s -f -a %s -d ", help ? "'__pw_at_word help'" : "__pw_at_word", first.items[i]);
            fish_quoted(out, summary);
            pw_buf_char(out, '\n');
        }
    }
    for (size_t k = 0; k < n; k++) {
        const char *second = strchr(list[k]->name, ' ');
        if (second) {
            pw_buf_printf(out, "complete -c pw -n '__pw_at_word %.*s' -f -a %s -d ", (int)(second - list[k]->name), list[k]->name, second + 1);
            fish_quoted(out, list[k]->summary);
            pw_buf_char(out, '\n');
        }
        snprintf(condition, sizeof condition, "__pw_runs %s", list[k]->name);
        fish_options(condition, list[k]->options, out);
    }
    fish_options("not __pw_at_word", common, out);
    pw_buf_str(out, "complete -c pennyweight -w pw\n");
}

int pw_help_completion(const char *shell, const struct pw_option *common, struct pw_buf *out)
{
    static const struct { const char *name; void (*write)(const struct pw_option *, struct pw_buf *); } shells[] = {{"bash", bash}, {"zsh", zsh}, {"fish", fish}};
    for (size_t i = 0; i < sizeof shells / sizeof *shells; i++)
        if (strcmp(shell, shells[i].name) == 0) {
            shells[i].write(common, out);
            return pw_buf_status(out);
        }
    return pw_error(PW_E_USAGE, "pw completion: expected bash, zsh or fish, got '%s'", shell);
}
