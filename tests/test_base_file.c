/* Files, mappings, outputs that appear whole, hashes, embedded files. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "base/lock.h"
#include "tests/support.h"

/* Names in a folder, hidden ones too: what a failed output must not leave behind. */
static int names_in(const char *dir)
{
    char command[5000];
    int n = -1;
    snprintf(command, sizeof command, "ls -A '%s' | wc -l", dir);
    FILE *f = popen(command, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%d", &n), 1);
    pclose(f);
    return n;
}

static void expect_text(const char *path, const char *text)
{
    size_t n;
    char *got = test_slurp(path, &n);
    ck_assert_str_eq(got, text);
    ck_assert_uint_eq(n, strlen(text));
    pw_free(got);
}

START_TEST(read_and_map)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "a");
    struct pw_buf b = { 0 };
    struct pw_map m;
    int64_t size;
    ck_ok(pw_file_write(path, "a\0b", 3, false));
    ck_ok(pw_file_read(path, 3, &b));
    ck_assert_mem_eq(b.data, "a\0b", 4);
    pw_buf_clear(&b);
    ck_fails(pw_file_read(path, 2, &b), PW_E_FORMAT, "too large (at most 2 bytes, got 3)");
    ck_fails(pw_file_read(dir, 0, &b), PW_E_IO, "is a folder");
    ck_fails(pw_file_read(test_path(dir, "none"), 0, &b), PW_E_IO, "none: cannot open: No such file");
    ck_ok(pw_file_size(path, &size));
    ck_assert_int_eq(size, 3);
    ck_ok(pw_map_open(&m, path));
    ck_assert(m.bytes == 3 && memcmp(m.data, "a\0b", 3) == 0);
    pw_map_close(&m);
    pw_map_close(&m);
    ck_fails(pw_map_open(&m, dir), PW_E_IO, "not a file");
    ck_fails(pw_map_open(&m, test_path(dir, "none")), PW_E_IO, "none");
    const char *empty = test_path(dir, "empty");
    ck_ok(pw_file_write(empty, "", 0, false));
    ck_ok(pw_map_open(&m, empty));
    ck_assert_uint_eq(m.bytes, 0);
    pw_map_close(&m);
    pw_buf_free(&b);
    ck_ok(pw_file_read(empty, 0, &b));
    ck_assert_str_eq(b.data, "");
    pw_buf_free(&b);
    const char *copies[] = { test_path(dir, "copy"), test_path(dir, "copy-of-empty") };
    ck_ok(pw_file_copy(path, copies[0]));
    test_same_file(copies[0], path);
    ck_ok(pw_file_copy(empty, copies[1]));
    test_same_file(copies[1], empty);
    ck_fails(pw_file_copy(path, copies[1]), PW_E_REFUSED, "copy-of-empty");
    ck_fails(pw_file_copy(test_path(dir, "none"), test_path(dir, "new")), PW_E_IO, "none");
    ck_assert(pw_file_exists(path) && !pw_is_dir(path) && pw_is_dir(dir));
    ck_assert_str_eq(pw_path_base("/x/y"), "y");
    ck_assert_str_eq(pw_path_base("y"), "y");
}
END_TEST

START_TEST(folders)
{
    const char *dir = test_tmpdir(), *deep = test_path(dir, "a/b/c"), *outside = test_path(dir, "outside");
    struct pw_arena a;
    char **names;
    size_t n;
    pw_arena_init(&a);
    ck_ok(pw_dir_make(deep));
    ck_ok(pw_dir_make(deep));
    ck_ok(pw_file_write(test_path(deep, "z"), "1", 1, false));
    ck_ok(pw_file_write(test_path(deep, "B"), "1", 1, false));
    ck_ok(pw_file_write(test_path(deep, ".hidden"), "1", 1, false));
    ck_fails(pw_dir_make(test_path(deep, "z/x")), PW_E_IO, "z: cannot make the folder");
    ck_ok(pw_dir_list(&a, deep, &names, &n));
    ck_assert_uint_eq(n, 2);
    ck_assert_str_eq(names[0], "B");
    ck_assert_str_eq(names[1], "z");
    ck_fails(pw_dir_list(&a, test_path(dir, "none"), &names, &n), PW_E_IO, "none: cannot list");
    ck_ok(pw_dir_make(outside));
    ck_ok(pw_file_write(test_path(outside, "kept"), "1", 1, false));
    ck_assert_int_eq(symlink(outside, test_path(deep, "link")), 0);
    ck_ok(pw_dir_remove(test_path(dir, "a")));
    ck_assert(!pw_file_exists(test_path(dir, "a")) && pw_file_exists(test_path(outside, "kept"))); /* links are not followed */
    ck_fails(pw_dir_remove(test_path(dir, "none")), PW_E_IO, "none");
    ck_assert_str_eq(pw_path_join(&a, "x/", "y"), "x/y");
    ck_assert_str_eq(pw_path_join(&a, "x", "y"), "x/y");
    ck_assert_str_eq(pw_path_join(&a, "", "y"), "y");
    ck_assert_str_eq(pw_path_join(&a, "x", "/y"), "/y");
    pw_arena_free(&a);
}
END_TEST

START_TEST(out_whole)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "x");
    struct pw_out o;
    ck_ok(pw_out_open(&o, path, false));
    ck_ok(pw_out_write(&o, "one", 3));
    fputs(" two", o.f);
    ck_assert(!pw_file_exists(path)); /* not before the commit */
    ck_ok(pw_out_commit(&o));
    expect_text(path, "one two");
    ck_assert_int_eq(names_in(dir), 1);
    pw_out_abort(&o);
    expect_text(path, "one two");
    ck_fails(pw_out_open(&o, path, false), PW_E_REFUSED, "x: exists");
    ck_assert_ptr_nonnull(strstr(pw_error_hint_text(), "--force"));
    pw_out_abort(&o);
    ck_fails(pw_out_check(path, false), PW_E_REFUSED, "exists");
    ck_ok(pw_out_check(path, true));
    ck_assert_int_eq(chmod(path, 0600), 0);
    ck_ok(pw_file_write(path, "three", 5, true));
    expect_text(path, "three");
    struct stat st;
    ck_assert(stat(path, &st) == 0 && (st.st_mode & 0777) == 0600); /* a private file stays private */
    ck_ok(pw_out_open(&o, path, true));
    ck_ok(pw_out_write(&o, "four", 4));
    pw_out_abort(&o);
    expect_text(path, "three");
    ck_assert_int_eq(names_in(dir), 1);
}
END_TEST

START_TEST(out_refused)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "x");
    struct pw_out o;
    ck_fails(pw_out_open(&o, test_path(dir, "none/x"), false), PW_E_IO, "No such file");
    ck_fails(pw_out_open(&o, "", false), PW_E_USAGE, "empty");
    ck_fails(pw_out_open(&o, dir, true), PW_E_IO, "is a folder");
    ck_fails(pw_out_check(test_path(dir, "none/x"), true), PW_E_IO, "none");
    /* Somebody makes the file while we work: theirs stays. */
    ck_ok(pw_out_open(&o, path, false));
    ck_ok(pw_out_write(&o, "ours", 4));
    ck_ok(pw_file_write(path, "theirs", 6, false));
    ck_fails(pw_out_commit(&o), PW_E_REFUSED, "exists");
    expect_text(path, "theirs");
    ck_assert_int_eq(names_in(dir), 1);
    /* A dangling link is something that exists. */
    const char *link = test_path(dir, "link");
    ck_assert_int_eq(symlink("nowhere", link), 0);
    ck_fails(pw_out_open(&o, link, false), PW_E_REFUSED, "exists");
    ck_ok(pw_out_open(&o, "/dev/null", false));
    ck_ok(pw_out_write(&o, "x", 1));
    ck_ok(pw_out_commit(&o));
    if (geteuid() == 0) {
        test_skip("an unwritable folder: root may write anywhere");
        return;
    }
    ck_assert_int_eq(chmod(dir, 0500), 0);
    ck_fails(pw_out_open(&o, test_path(dir, "y"), false), PW_E_IO, "Permission denied");
    ck_fails(pw_out_check(test_path(dir, "y"), false), PW_E_IO, "Permission denied");
    ck_assert_int_eq(chmod(dir, 0700), 0);
}
END_TEST

/* The same as another user, when we are root: a child gives up its rights first. Check forks every test, so this one may. */
START_TEST(out_unwritable_as_nobody)
{
    const char *dir = test_tmpdir();
    struct pw_out o;
    struct pw_outdir d;
    if (geteuid() != 0) {
        test_skip("not root: out_refused did it");
        return;
    }
    if (chmod(dir, 0755) != 0 || seteuid(65534) != 0) {
        test_skip("cannot become another user");
        return;
    }
    int open = pw_out_open(&o, test_path(dir, "y"), false), folder = pw_outdir_open(&d, test_path(dir, "z"), false);
    ck_assert_int_eq(seteuid(0), 0);
    ck_assert_int_eq(open, PW_E_IO);
    ck_assert_int_eq(folder, PW_E_IO);
    ck_assert_ptr_nonnull(strstr(pw_error_text(), "denied"));
    ck_assert_int_eq(names_in(dir), 0);
}
END_TEST

START_TEST(out_full_disk_by_limit)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "x");
    struct rlimit was, small = { 8192, RLIM_INFINITY };
    static char block[100000];
    struct pw_out o;
    signal(SIGXFSZ, SIG_IGN);
    ck_ok(pw_file_write(path, "old", 3, false));
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &was), 0);
    small.rlim_max = was.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    int large = pw_file_write(path, block, sizeof block, true); /* fails in the write */
    char why[300];
    snprintf(why, sizeof why, "%s", pw_error_text());
    int opened = pw_out_open(&o, path, true);
    for (int i = 0; i < 9000 && opened == 0; i++) fputc('x', o.f); /* fails unseen, in the flush */
    int commit = opened == 0 ? pw_out_commit(&o) : 0;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &was), 0);
    ck_assert_int_eq(large, PW_E_IO);
    ck_assert_msg(strstr(why, "File too large") != NULL, "%s", why);
    ck_assert_int_eq(opened, 0);
    ck_assert_int_eq(commit, PW_E_IO);
    expect_text(path, "old");
    ck_assert_int_eq(names_in(dir), 1);
}
END_TEST

START_TEST(out_full_disk)
{
    const char *dir = test_tmpdir();
    static char block[200000];
    struct pw_outdir d;
    struct pw_out o;
    /* mounted for this process alone, so that it is gone with it, however it ends */
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 || mount("tmpfs", dir, "tmpfs", 0, "size=64k") != 0) {
        test_skip("a full disk: no right to mount one");
        return;
    }
    int file = pw_file_write(test_path(dir, "x"), block, sizeof block, false);
    char why[300];
    snprintf(why, sizeof why, "%s", pw_error_text());
    int left = names_in(dir), opened = pw_outdir_open(&d, test_path(dir, "d"), false), inside = -1;
    if (opened == 0) {
        struct pw_arena a;
        pw_arena_init(&a);
        if (pw_out_open(&o, pw_path_join(&a, d.temp, "f"), false) == 0) {
            inside = pw_out_write(&o, block, sizeof block);
            pw_out_abort(&o);
        }
        pw_arena_free(&a);
        pw_outdir_abort(&d);
    }
    int left_after = names_in(dir);
    umount2(dir, MNT_DETACH);
    ck_assert_int_eq(file, PW_E_IO);
    ck_assert_msg(strstr(why, "No space left") != NULL, "%s", why);
    ck_assert_int_eq(left, 0);
    ck_assert_int_eq(opened, 0);
    ck_assert_int_eq(inside, PW_E_IO);
    ck_assert_int_eq(left_after, 0);
}
END_TEST

static void put(const char *dir, const char *name, const char *text) { ck_ok(pw_file_write(test_path(dir, name), text, strlen(text), true)); }

START_TEST(outdir_whole)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, "model");
    struct pw_outdir o;
    ck_ok(pw_outdir_open(&o, test_path(dir, "model/"), false)); /* a trailing slash is fine */
    put(o.temp, "a", "1");
    ck_ok(pw_dir_make(test_path(o.temp, "sub")));
    put(o.temp, "sub/b", "2");
    ck_assert(!pw_file_exists(path));
    ck_ok(pw_outdir_commit(&o));
    expect_text(test_path(path, "sub/b"), "2");
    ck_assert_int_eq(names_in(dir), 1);
    ck_fails(pw_outdir_open(&o, path, false), PW_E_REFUSED, "exists");
    ck_ok(pw_outdir_open(&o, path, true));
    put(o.temp, "c", "3");
    pw_outdir_abort(&o);
    expect_text(test_path(path, "a"), "1");
    ck_ok(pw_outdir_open(&o, path, true));
    put(o.temp, "c", "3");
    ck_ok(pw_outdir_commit(&o));
    ck_assert(!pw_file_exists(test_path(path, "a"))); /* replaced, not mixed */
    expect_text(test_path(path, "c"), "3");
    ck_assert_int_eq(names_in(dir), 1);
    pw_outdir_abort(&o);
    put(dir, "file", "x");
    ck_fails(pw_outdir_open(&o, test_path(dir, "file"), true), PW_E_IO, "is not a folder");
    ck_fails(pw_outdir_open(&o, test_path(dir, "none/x"), true), PW_E_IO, "none");
    /* Somebody makes the folder while we work. */
    ck_ok(pw_outdir_open(&o, test_path(dir, "late"), false));
    ck_ok(pw_dir_make(test_path(dir, "late")));
    ck_fails(pw_outdir_commit(&o), PW_E_REFUSED, "exists");
    ck_assert_int_eq(names_in(dir), 3);
}
END_TEST

/* What a process that was killed left goes; a folder that was moved aside and has no successor comes back; names of others stay. */
START_TEST(swept)
{
    static const char *const gone[] = { ".a.12.0.part", ".b.12.1.old", ".d.e.7.3.part" }, *const stay[] = { ".lock", ".x.part", ".12.3.part", ".y.1.2.parts", ".z.1.part", "w.1.2.part" };
    const char *dir = test_tmpdir();
    ck_ok(pw_dir_make(test_path(dir, gone[0])));
    put(dir, test_path(gone[0], "sub"), "1");
    ck_ok(pw_dir_make(test_path(dir, gone[1])));
    put(dir, gone[2], "2");
    ck_ok(pw_dir_make(test_path(dir, "b")));
    ck_ok(pw_dir_make(test_path(dir, ".best.12.4.old")));
    put(dir, ".best.12.4.old/a", "3");
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++) put(dir, stay[i], "");
    ck_ok(pw_out_sweep(dir));
    for (size_t i = 0; i < sizeof gone / sizeof gone[0]; i++) ck_assert_msg(!pw_file_exists(test_path(dir, gone[i])), "%s is left", gone[i]);
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++) ck_assert_msg(pw_file_exists(test_path(dir, stay[i])), "%s is gone", stay[i]);
    expect_text(test_path(dir, "best/a"), "3");
    ck_assert_int_eq(names_in(dir), 2 + (int)(sizeof stay / sizeof stay[0]));
    ck_fails(pw_out_sweep(test_path(dir, "none")), PW_E_IO, "cannot list");
}
END_TEST

static int write_both(void *context)
{
    const char *dir = context;
    struct pw_arena a;
    struct pw_outdir d = { 0 };
    struct pw_buf b = { 0 };
    int rc;
    pw_arena_init(&a);
    const char *inner = NULL, *path = pw_path_join(&a, dir, "out");
    if (!path) {
        rc = PW_E_NOMEM;
        goto out;
    }
    PW_PASS_OUT(pw_outdir_open(&d, path, true));
    inner = pw_path_join(&a, d.temp, "f");
    if (!inner) {
        rc = PW_E_NOMEM;
        goto out;
    }
    PW_PASS_OUT(pw_file_write(inner, "x", 1, true));
    PW_PASS_OUT(pw_file_read(inner, 0, &b));
    PW_PASS_OUT(pw_outdir_commit(&d));
out:
    pw_outdir_abort(&d);
    pw_buf_free(&b);
    pw_arena_free(&a);
    return rc;
}

START_TEST(out_of_memory)
{
    const char *dir = test_tmpdir();
    ck_assert_int_ge(test_sweep_nomem(write_both, (void *)(uintptr_t)dir), 5);
    ck_assert_int_eq(names_in(dir), 1);
}
END_TEST

/* FIPS 180-4 examples. */
START_TEST(hashes)
{
    char hex[65];
    const char *path = test_path(test_tmpdir(), "million");
    pw_sha256_bytes("", 0, hex);
    ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    pw_sha256_bytes("abc", 3, hex);
    ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    struct pw_out o;
    ck_ok(pw_out_open(&o, path, false));
    for (int i = 0; i < 1000000; i++) fputc('a', o.f);
    ck_ok(pw_out_commit(&o));
    ck_ok(pw_sha256_file(path, hex));
    ck_assert_str_eq(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    /* Long pieces and short ones take different ways: every length around whole blocks, from every place in a block, byte by byte and at once. */
    unsigned char bytes[1024];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * 167 + i / 256);
    for (size_t lead = 0; lead < 65; lead += 3)
        for (size_t n = 250; n < 520; n += n % 64 == 1 ? 60 : 1) {
            struct pw_sha256 once, often;
            char a[65], b[65];
            pw_sha256_init(&once);
            pw_sha256_init(&often);
            pw_sha256_add(&once, bytes, lead);
            pw_sha256_add(&once, bytes + lead, n);
            pw_sha256_add(&once, bytes, 7);
            for (size_t i = 0; i < lead + n; i++) pw_sha256_add(&often, bytes + i, 1);
            pw_sha256_add(&often, bytes, 7);
            pw_sha256_hex(&once, a);
            pw_sha256_hex(&often, b);
            ck_assert_msg(strcmp(a, b) == 0, "%zu bytes after %zu: %s, byte by byte %s", n, lead, a, b);
        }
    for (size_t n = 0; n < 400; n += 13)
        for (size_t m = 0; m < 400; m += n % 5 + 29) {
            char a[65], b[65], first[65], second[65];
            pw_sha256_bytes(bytes, n, a);
            pw_sha256_bytes(bytes + 401, m, b);
            pw_sha256_two((const void *const[]){ bytes, bytes + 401 }, (const size_t[]){ n, m }, (char *const[]){ first, second });
            ck_assert_str_eq(first, a);
            ck_assert_str_eq(second, b);
        }
    ck_fails(pw_sha256_file("/nowhere/x", hex), PW_E_IO, "/nowhere/x");
    ck_fails(pw_sha256_file("/", hex), PW_E_IO, "/: cannot read");
}
END_TEST

/* A child that takes the lock, says so, and waits to be killed. */
static pid_t hold(const char *path)
{
    int said[2];
    char byte = 0;
    ck_assert_int_eq(pipe(said), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        struct pw_lock l;
        char ok = pw_lock_take(&l, path, "x") == 0;
        (void)!write(said[1], &ok, 1);
        for (;;) pause();
    }
    ck_assert_int_eq(read(said[0], &byte, 1), 1);
    ck_assert_int_eq(byte, 1);
    close(said[0]);
    close(said[1]);
    return child;
}

START_TEST(locks)
{
    const char *dir = test_tmpdir(), *path = test_path(dir, ".lock");
    struct pw_lock l, second;
    char pid[32];
    ck_ok(pw_lock_take(&l, path, "the folder"));
    ck_fails(pw_lock_take(&second, path, "the folder"), PW_E_REFUSED, "the folder is in use by another process");
    pw_lock_drop(&second); /* holds nothing: takes nothing from the first */
    ck_fails(pw_lock_take(&second, path, "the folder"), PW_E_REFUSED, "in use");
    pw_lock_drop(&l);
    pw_lock_drop(&l);
    ck_assert_int_eq(names_in(dir), 0);
    pid_t child = hold(path);
    snprintf(pid, sizeof pid, "process, %ld", (long)child);
    ck_fails(pw_lock_take(&l, path, "the folder"), PW_E_REFUSED, pid);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    ck_assert(pw_file_exists(path)); /* a killed owner leaves the file, and nobody is stopped by it */
    ck_ok(pw_lock_take(&l, path, "the folder"));
    ck_assert_int_eq(unlink(path), 0); /* somebody cleans up by hand: another's lock is then not ours to remove */
    ck_ok(pw_lock_take(&second, path, "the folder"));
    pw_lock_drop(&l);
    ck_assert(pw_file_exists(path));
    pw_lock_drop(&second);
    ck_assert_int_eq(names_in(dir), 0);
    ck_fails(pw_lock_take(&l, test_path(dir, "none/.lock"), "x"), PW_E_IO, "none/.lock");
}
END_TEST

START_TEST(clearing)
{
    const char *dir = test_tmpdir();
    ck_ok(pw_dir_make(test_path(dir, "a/b")));
    ck_ok(pw_file_write(test_path(dir, "a/keep"), "x", 1, false));
    ck_ok(pw_file_write(test_path(dir, "keep"), "x", 1, false));
    ck_ok(pw_file_write(test_path(dir, ".hidden"), "x", 1, false));
    ck_ok(pw_dir_clear(dir, "keep"));
    ck_assert_int_eq(names_in(dir), 1); /* the name is kept at the top alone */
    expect_text(test_path(dir, "keep"), "x");
}
END_TEST

START_TEST(embedded)
{
    struct pw_buf b = { 0 };
    ck_fails(pw_embedded_read("recipes/none.yaml", &b), PW_E_IO, "recipes/none.yaml");
    pw_buf_free(&b);
    for (const struct pw_embedded *f = pw_embedded_files; f->name; f++) {
        ck_ok(pw_embedded_read(f->name, &b));
        ck_assert_uint_eq(b.len, f->bytes);
        pw_buf_free(&b);
    }
    ck_assert_int_eq(chdir(test_tmpdir()), 0);
    ck_ok(pw_dir_make("recipes"));
    ck_ok(pw_file_write("recipes/mine.yaml", "a: 1", 4, false));
    ck_ok(pw_embedded_read("recipes/mine.yaml", &b)); /* the user's own wins */
    ck_assert_str_eq(b.data, "a: 1");
    pw_buf_free(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("base: files");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    suite_add_tcase(s, t);
    tcase_add_test(t, read_and_map);
    tcase_add_test(t, folders);
    tcase_add_test(t, out_whole);
    tcase_add_test(t, out_refused);
    tcase_add_test(t, out_unwritable_as_nobody);
    tcase_add_test(t, out_full_disk_by_limit);
    tcase_add_test(t, out_full_disk);
    tcase_add_test(t, outdir_whole);
    tcase_add_test(t, swept);
    tcase_add_test(t, out_of_memory);
    tcase_add_test(t, hashes);
    tcase_add_test(t, locks);
    tcase_add_test(t, clearing);
    tcase_add_test(t, embedded);
    return test_run(s);
}
