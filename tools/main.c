/* The program: finds the command, parses its options, runs it, prints its result or its error trail, and chooses the exit status.
 * Owns stdout, stderr, signals and the environment; knows nothing of what the commands do. */
#include "tools/cmd.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/limit.h"
#include "tools/help.h"
#include "tools/ranks.h"

static const struct pw_option common_options[] = {
    {"device", 0, PW_OPT_STRING, offsetof(struct pw_common, device), "DEVICE", NULL, "auto", 0, 0, "auto, cpu, ref, cuda[:N] or simt"},
    {"threads", 0, PW_OPT_INT, offsetof(struct pw_common, threads), "N", NULL, "0", 0, 4096, "threads to use; 0: all cores"},
    {"seed", 0, PW_OPT_INT, offsetof(struct pw_common, seed), "N", NULL, "42", 0, 9e18, "seed of everything that is drawn"},
    {"memory", 0, PW_OPT_BYTES, offsetof(struct pw_common, memory), "SIZE", NULL, NULL, 0, 0, "most memory to use, such as 8GiB: planned where a model is computed with, and kept by every other command"},
    {"ctx", 0, PW_OPT_INT, offsetof(struct pw_common, ctx), "N", NULL, "0", 0, 1e9, "context length in tokens; 0: the model's own"},
    {"json", 0, PW_OPT_FLAG, offsetof(struct pw_common, json), NULL, NULL, NULL, 0, 0, "one JSON document on stdout"},
    {"quiet", 'q', PW_OPT_FLAG, offsetof(struct pw_common, quiet), NULL, NULL, NULL, 0, 0, "no progress; errors alone on stderr"},
    {"verbose", 'v', PW_OPT_FLAG, offsetof(struct pw_common, verbose), NULL, NULL, NULL, 0, 0, "say more: at the end the most memory that was in use"},
    {"help", 'h', PW_OPT_FLAG, offsetof(struct pw_common, help), NULL, NULL, NULL, 0, 0, "what the command does, and its options"},
    {"force", 0, PW_OPT_FLAG, offsetof(struct pw_common, force), NULL, NULL, NULL, 0, 0, "replace an existing output"},
    {"type", 0, PW_OPT_STRING, offsetof(struct pw_common, type), "TYPE", NULL, "", 0, 0,
     "quantise or convert while loading: nf4, fp4, int8, f32, bf16; with quant and merge: the type to write"},
    {"double-quant", 0, PW_OPT_FLAG, offsetof(struct pw_common, double_quant), NULL, NULL, NULL, 0, 0, "quantise the scales of 4-bit types too"},
    {"cache-type", 0, PW_OPT_CHOICE, offsetof(struct pw_common, cache_type), "TYPE", "auto|f32|bf16|int8", "auto", 0, 0,
     "what keys and values of the text so far are kept in; auto: in what the device computes in"},
    {"products", 0, PW_OPT_STRING, offsetof(struct pw_common, products), "FILE", NULL, NULL, 0, 0,
     "of a card: which way of multiplying was the faster for each shape; otherwise one in the cache"},
    {"adapter", 0, PW_OPT_LIST, offsetof(struct pw_common, adapters), "PATH[:SCALE]", NULL, NULL, 0, 0, "adapter folder; may be repeated"},
    {"tokenizer", 0, PW_OPT_STRING, offsetof(struct pw_common, tokenizer), "FILE", NULL, NULL, 0, 0, "tokenizer of a model that carries none"},
    PW_OPTIONS_END,
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    if (interrupted) {          /* the second time: at once */
        signal(number, SIG_DFL);
        raise(number);
    }
    interrupted = 1;
}

void pw_interrupt_on(int number)
{
    struct sigaction act = {.sa_handler = on_signal};
    sigaction(number, &act, NULL);
}

const char *pw_cmd_cache(char path[4096], const char *name)
{
    const char *own = getenv("PW_CACHE"), *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (own && own[0])
        snprintf(path, 4096, "%s/%s", own, name);
    else if (xdg && xdg[0])
        snprintf(path, 4096, "%s/pennyweight/%s", xdg, name);
    else if (home && home[0])
        snprintf(path, 4096, "%s/.cache/pennyweight/%s", home, name);
    else
        return NULL;
    if (pw_dir_make(path) < 0) {
        pw_error_clear();
        return NULL;
    }
    return path;
}

bool pw_interrupted(void)
{
    return interrupted != 0;
}

static bool begun;   /* something of the result is on stdout */

static int write_all(const char *bytes, size_t n)
{
    begun |= n > 0;
    if (n > 0 && fwrite(bytes, 1, n, stdout) != n)
        return pw_error(PW_E_IO, "while writing to stdout: %s", strerror(errno));
    if (fflush(stdout) != 0)
        return pw_error(PW_E_IO, "while writing to stdout: %s", strerror(errno));
    return 0;
}

int pw_cmd_emit(struct pw_cmd *c)
{
    PW_PASS(pw_buf_status(c->out));
    PW_PASS(write_all(c->out->data, c->out->len));
    pw_buf_clear(c->out);
    return 0;
}

void pw_cmd_plans(void)
{
    (void)pw_limit_keep(0);
}

/* Of several ranks on a machine each takes a card of its own, unless it is shown one alone. */
static const char *card_of(const char *asked, int local_rank, int local, char name[32])
{
    const char *seen = getenv("CUDA_VISIBLE_DEVICES");
    if (strcmp(asked, "cuda") != 0 || local <= 1 || (seen && seen[0] && !strchr(seen, ',')))
        return asked;
    snprintf(name, 32, "cuda:%d", local_rank);
    return name;
}

int pw_cmd_device(const struct pw_cmd *c, struct pw_dev **out)
{
    return pw_cmd_rank_device(c, NULL, false, out);
}

int pw_cmd_rank_device(const struct pw_cmd *c, const struct pw_ranks *ranks, bool bf16, struct pw_dev **out)
{
    const char *asked = c->common->device;
    bool automatic = strcmp(asked, "auto") == 0, cpu = automatic || strcmp(asked, "cpu") == 0;
    const char *level = cpu ? getenv("PW_CPU") : strcmp(asked, "simt") == 0 ? getenv("PW_SIMT") : NULL;
    char name[32];
    int local_rank = 0;
    const int local = pw_ranks_local(ranks, &local_rank);
    int threads = (int)c->common->threads;
    if (threads == 0 && local > 1)
        threads = pw_cmd_share_of_cores(c, local);
    struct pw_dev_options opt = {cpu ? NULL : card_of(asked, local_rank, local, name), threads, level, bf16 && cpu ? PW_BF16 : PW_F32, c->many_rows};
    if (automatic) {
        struct pw_dev_options card = {card_of("cuda", local_rank, local, name), threads, NULL, PW_F32, false};
        if (pw_dev_open(out, &card) == 0) {
            pw_progress_say(c->progress, "running on %s", (*out)->level);
            return 0;
        }
        pw_progress_say(c->progress, "no GPU is used (%s): running on the CPU", pw_error_text());
        pw_error_clear();
    }
    int rc = pw_dev_open(out, &opt);
    if (rc == PW_E_UNSUPPORTED && opt.products == PW_BF16) {
        rc = pw_error(PW_E_REFUSED, "train.compute bf16: this processor has no instructions that multiply bf16 (AVX-512 BF16, AMX)");
        pw_error_hint("train.compute: f32 runs on every processor");
        return rc;
    }
    if (rc == PW_E_REFUSED)
        pw_error_hint("--device cpu runs on the processor");
    return rc;
}

int pw_cmd_host_device(const struct pw_cmd *c, struct pw_dev **out)
{
    const char *asked = c->common->device;
    bool automatic = strcmp(asked, "auto") == 0, ref = strcmp(asked, "ref") == 0;
    struct pw_dev_options opt = {automatic ? NULL : asked, (int)c->common->threads, ref ? NULL : getenv("PW_CPU"), PW_F32, false};
    if (!automatic && !ref && strcmp(asked, "cpu") != 0) {
        int rc = pw_error(PW_E_REFUSED, "this command computes on the processor, not on device %s", asked);
        pw_error_hint("leave --device away");
        return rc;
    }
    return pw_dev_open(out, &opt);
}

void pw_json_begin(struct pw_json *w)
{
    pw_json_open(w, NULL, '{');
    pw_json_i64(w, "schema", 1);
}

int pw_json_finish(struct pw_cmd *c, struct pw_json *w)
{
    pw_json_close(w, '}');
    int rc = pw_json_status(w);
    if (rc == 0) {
        pw_buf_add(c->out, w->out.data, w->out.len);
        pw_buf_char(c->out, '\n');
    }
    pw_json_free(w);
    return rc;
}

static int print_error(int rc)
{
    if (pw_cmd_speaks(rc)) {
        fprintf(stderr, "pw: %s\n", pw_error_text());
        if (pw_error_hint_text()[0])
            fprintf(stderr, "    %s\n", pw_error_hint_text());
    }
    return pw_error_exit_status(rc);
}

static int run_command(const struct pw_command *command, int argc, char **argv)
{
    struct pw_common common = {0};
    struct pw_args rest = {0};
    struct pw_buf out = {0};
    struct pw_progress progress = {0};
    void *options = pw_alloc_zero(1, command->options_bytes ? command->options_bytes : 1);
    int rc = 0;
    PW_CHECK_OUT(options, PW_E_NOMEM, "out of memory");

    const struct pw_option none[] = {PW_OPTIONS_END};
    const struct pw_option *tables[2] = {common_options, command->options ? command->options : none};
    void *into[2] = {&common, options};
    PW_PASS_OUT(pw_options_parse(tables, into, 2, argc, argv, &rest));
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        common.seed_given |= strncmp(argv[i], "--seed", 6) == 0;
    if (rest.n < (size_t)command->min_args || (command->max_args >= 0 && rest.n > (size_t)command->max_args)) {
        rc = pw_error(PW_E_USAGE, "pw %s: %s", command->name,
                      rest.n < (size_t)command->min_args ? "an argument is missing" : "too many arguments");
        pw_error_hint("usage: pw %s %s", command->name, command->usage);
        goto out;
    }
    progress.on = !common.quiet;
    progress.stop = pw_interrupted;
    struct pw_cmd c = {.common = &common, .options = options, .args = rest, .progress = &progress, .out = &out, .many_rows = command->many_rows};
    if (!command->plans)
        PW_PASS_OUT(pw_limit_keep(common.memory));
    PW_PASS_OUT(command->run(&c));
    PW_PASS_OUT(pw_buf_status(&out));
    PW_PASS_OUT(write_all(out.data, out.len));
out:
    rc = pw_limit_reason(rc, begun);
    if (common.verbose && !common.quiet)
        fprintf(stderr, "at most %zu bytes of memory were resident\n", pw_peak_rss_bytes());
    pw_buf_free(&out);
    pw_options_free(&rest);
    pw_free(options);
    return rc;
}

static bool asks_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

/* A thread of libgomp that waits for others spins for milliseconds: nothing lost on a quiet machine, and a quarter to more than half of the speed beside another program.
 * The library reads how long when it is loaded, before main, so a command that computes begins once more with that set. What a user has set stands;
 * where that cannot be done, threads wait as ever. */
static void wait_shortly(char **argv)
{
    char self[4096];
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY") || setenv("GOMP_SPINCOUNT", "10000", 1) != 0)
        return;
    self[n] = 0;
    execv(self, argv);
}

int main(int argc, char **argv)
{
    char **const all = argv;
    pw_interrupt_on(SIGINT);
    pw_interrupt_on(SIGTERM);
    signal(SIGPIPE, SIG_IGN);   /* an unwritable stdout, and a file that may not grow, are errors with a message, not a death */
    signal(SIGXFSZ, SIG_IGN);

    struct pw_buf text = {0};
    int rc = 0, words = 0;
    argc--, argv++;
    if (argc == 0) {
        if (pw_help(0, argv, common_options, &text) == 0)
            fwrite(text.data, 1, text.len, stderr);
        rc = pw_error(PW_E_USAGE, "a command is missing");
    } else if (strcmp(argv[0], "help") == 0 || strcmp(argv[0], "--help") == 0 || strcmp(argv[0], "-h") == 0) {
        rc = pw_help(argc > 1 ? argc - 1 : 0, argv + 1, common_options, &text);
        if (rc == 0)
            rc = write_all(text.data, text.len);
    } else if (strcmp(argv[0], "--version") == 0 || strcmp(argv[0], "version") == 0) {
        rc = write_all("pennyweight " PW_VERSION "\n", strlen("pennyweight " PW_VERSION "\n"));
    } else if (strcmp(argv[0], "completion") == 0) {
        rc = pw_help_completion(argc > 1 ? argv[1] : "", common_options, &text);
        if (rc == 0)
            rc = write_all(text.data, text.len);
    } else {
        const struct pw_command *command = pw_command_find(argc, argv, &words);
        if (!command)
            rc = pw_command_unknown(argc, argv);
        else if (asks_help(argc - words, argv + words)) {
            rc = pw_help(words, argv, common_options, &text);
            if (rc == 0)
                rc = write_all(text.data, text.len);
        } else {
            if (command->plans)
                wait_shortly(all);
            rc = run_command(command, argc - words, argv + words);
        }
    }
    pw_buf_free(&text);
    const int status = rc < 0 ? print_error(rc) : 0;
    pw_cmd_leave(status);
    return status;
}
