/* HDF5 files of named arrays. The only file that includes the HDF5 library.
 *
 * Layout: bytes 0..511 are HDF5's user block, holding the text "pennyweight-h5 1\nbytes N\nsha256 HEX\n" padded with NULs, where N and HEX
 * are of everything from byte 512 on. No times are stored, so equal contents are equal bytes. */
#include "data/h5.h"

#include <hdf5.h>
#include <inttypes.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/memory.h"

enum { USER_BLOCK = 512 };
#define MAGIC "pennyweight-h5 1\n"

struct pw_h5_out { struct pw_out file; hid_t id, link; char *path; };
struct pw_h5_in { hid_t id; char *path; };

static const char *const type_names[] = {"f32", "f64", "i32", "i64", "u8", "u64"};

static hid_t memory_type(enum pw_h5_type t)
{
    switch (t) {
    case PW_H5_F32: return H5T_NATIVE_FLOAT;
    case PW_H5_F64: return H5T_NATIVE_DOUBLE;
    case PW_H5_I32: return H5T_NATIVE_INT32;
    case PW_H5_I64: return H5T_NATIVE_INT64;
    case PW_H5_U8: return H5T_NATIVE_UINT8;
    case PW_H5_U64: return H5T_NATIVE_UINT64;
    }
    return H5I_INVALID_HID;
}

static hid_t file_type(enum pw_h5_type t)
{
    switch (t) {
    case PW_H5_F32: return H5T_IEEE_F32LE;
    case PW_H5_F64: return H5T_IEEE_F64LE;
    case PW_H5_I32: return H5T_STD_I32LE;
    case PW_H5_I64: return H5T_STD_I64LE;
    case PW_H5_U8: return H5T_STD_U8LE;
    case PW_H5_U64: return H5T_STD_U64LE;
    }
    return H5I_INVALID_HID;
}

/* The library's own error printing is off; its reason is taken from its stack instead. */
static herr_t keep_reason(unsigned n, const H5E_error2_t *e, void *into)
{
    (void)n;
    char *text = into;
    const char *system = e->desc ? strstr(e->desc, "error message = '") : NULL; /* the system's reason, inside a long line of file names and addresses */
    if (system) {
        system += strlen("error message = '");
        snprintf(text, 160, "%.*s", (int)strcspn(system, "'"), system);
    } else if (e->desc)
        snprintf(text, 160, "%s", e->desc);
    return 0;
}

static const char *library_reason(char text[160])
{
    snprintf(text, 160, "unknown reason");
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, keep_reason, text); /* ends at the innermost, which says most */
    return text;
}

static int library_start(void)
{
    /* A file that could not be written (a full disk) leaves the library in a state in which its clean-up at exit crashes. What is opened here is
     * closed here, so there is nothing left for it to do. After the first call this is without effect. */
    (void)H5dont_atexit();
    PW_CHECK(H5open() >= 0, PW_E_FAIL, "the HDF5 library does not start");
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* this thread's stack */
    return 0;
}

/* ---- write ---- */

static void out_free(struct pw_h5_out *h)
{
    if (!h)
        return;
    if (h->link >= 0)
        H5Pclose(h->link);
    if (h->id >= 0)
        H5Fclose(h->id);
    pw_out_abort(&h->file);
    pw_free(h->path);
    pw_free(h);
}

int pw_h5_create(struct pw_h5_out **out, const char *path, bool force)
{
    *out = NULL;
    PW_PASS(library_start());
    struct pw_h5_out *h = pw_alloc_zero(1, sizeof *h);
    PW_CHECK(h, PW_E_NOMEM, "%s: no memory", path);
    h->id = h->link = -1;
    int rc = 0;
    char why[160];
    hid_t create = -1, access = -1;
    h->path = pw_strdup(path);
    PW_CHECK_OUT(h->path, PW_E_NOMEM, "%s: no memory", path);
    PW_PASS_OUT(pw_out_open(&h->file, path, force));
    create = H5Pcreate(H5P_FILE_CREATE);
    access = H5Pcreate(H5P_FILE_ACCESS);
    h->link = H5Pcreate(H5P_LINK_CREATE);
    PW_CHECK_OUT(create >= 0 && access >= 0 && h->link >= 0, PW_E_FAIL, "%s: HDF5: %s", path, library_reason(why));
    H5Pset_userblock(create, USER_BLOCK);
    H5Pset_obj_track_times(create, false);
    H5Pset_file_locking(access, false, true); /* some file systems have no locks; the name is ours alone */
    H5Pset_create_intermediate_group(h->link, 1);
    h->id = H5Fcreate(h->file.temp, H5F_ACC_TRUNC, create, access); /* the same file that h->file holds open */
    PW_CHECK_OUT(h->id >= 0, PW_E_IO, "%s: HDF5 cannot create the file: %s", path, library_reason(why));
    *out = h;
out:
    if (create >= 0)
        H5Pclose(create);
    if (access >= 0)
        H5Pclose(access);
    if (rc < 0)
        out_free(h);
    return rc;
}

int pw_h5_put(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int rank, const int64_t *shape)
{
    PW_CHECK(rank >= 0 && rank <= PW_H5_MAX_RANK, PW_E_FAIL, "%s: %s: rank %d, expected 0 to %d", h->path, name, rank, PW_H5_MAX_RANK);
    hsize_t dims[PW_H5_MAX_RANK];
    int64_t count = 1;
    for (int i = 0; i < rank; i++) {
        PW_CHECK(shape[i] >= 0, PW_E_FAIL, "%s: %s: negative length %" PRId64, h->path, name, shape[i]);
        PW_CHECK(pw_mul_i64(count, shape[i], &count), PW_E_FAIL, "%s: %s: too large", h->path, name);
        dims[i] = (hsize_t)shape[i];
    }
    int rc = 0;
    char why[160];
    hid_t space = -1, set = -1, create = -1;
    space = rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, dims, NULL);
    create = H5Pcreate(H5P_DATASET_CREATE);
    PW_CHECK_OUT(space >= 0 && create >= 0, PW_E_FAIL, "%s: %s: HDF5: %s", h->path, name, library_reason(why));
    H5Pset_obj_track_times(create, false);
    set = H5Dcreate2(h->id, name, file_type(type), space, h->link, create, H5P_DEFAULT);
    PW_CHECK_OUT(set >= 0, PW_E_IO, "%s: %s: HDF5 cannot make the array: %s", h->path, name, library_reason(why));
    if (count > 0)
        PW_CHECK_OUT(H5Dwrite(set, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, PW_E_IO,
                     "%s: %s: HDF5 cannot write: %s", h->path, name, library_reason(why));
out:
    if (set >= 0 && H5Dclose(set) < 0 && rc == 0)
        rc = pw_error(PW_E_IO, "%s: %s: HDF5 cannot write: %s", h->path, name, library_reason(why));
    if (create >= 0)
        H5Pclose(create);
    if (space >= 0)
        H5Sclose(space);
    return rc;
}

int pw_h5_put_1d(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int64_t n)
{
    return pw_h5_put(h, name, type, data, 1, &n);
}

int pw_h5_put_2d(struct pw_h5_out *h, const char *name, enum pw_h5_type type, const void *data, int64_t rows, int64_t columns)
{
    int64_t shape[2] = {rows, columns};
    return pw_h5_put(h, name, type, data, 2, shape);
}

int pw_h5_put_text(struct pw_h5_out *h, const char *name, const char *s, size_t bytes)
{
    return pw_h5_put_1d(h, name, PW_H5_U8, s, (int64_t)bytes);
}

int pw_h5_put_i64(struct pw_h5_out *h, const char *name, int64_t x)
{
    return pw_h5_put(h, name, PW_H5_I64, &x, 0, NULL);
}

int pw_h5_put_f64(struct pw_h5_out *h, const char *name, double x)
{
    return pw_h5_put(h, name, PW_H5_F64, &x, 0, NULL);
}

static int write_seal(struct pw_h5_out *h)
{
    struct pw_map map = {0};
    PW_PASS(pw_map_open(&map, h->file.temp));
    int rc = 0;
    char seal[USER_BLOCK] = {0}, hex[65];
    PW_CHECK_OUT(map.bytes > USER_BLOCK, PW_E_IO, "%s: HDF5 wrote only %zu bytes", h->path, map.bytes);
    pw_sha256_bytes(map.data + USER_BLOCK, map.bytes - USER_BLOCK, hex);
    snprintf(seal, sizeof seal, MAGIC "bytes %zu\nsha256 %s\n", map.bytes - USER_BLOCK, hex);
    PW_CHECK_OUT(fseek(h->file.f, 0, SEEK_SET) == 0, PW_E_IO, "%s: cannot seek", h->path);
    PW_PASS_OUT(pw_out_write(&h->file, seal, sizeof seal));
out:
    pw_map_close(&map);
    return rc;
}

int pw_h5_commit(struct pw_h5_out *h)
{
    int rc = 0;
    char why[160];
    hid_t id = h->id;
    h->id = -1;
    PW_CHECK_OUT(H5Fclose(id) >= 0, PW_E_IO, "%s: HDF5 cannot finish the file: %s", h->path, library_reason(why));
    PW_PASS_OUT(write_seal(h));
    PW_PASS_OUT(pw_out_commit(&h->file));
out:
    out_free(h);
    return rc;
}

void pw_h5_abort(struct pw_h5_out *h)
{
    out_free(h);
}

/* ---- read ---- */

/* Length and hash before anything is parsed: the library never sees bytes that we did not write. */
static int check_seal(const char *path)
{
    struct pw_map map = {0};
    PW_PASS(pw_map_open(&map, path));
    int rc = 0;
    char seal[USER_BLOCK + 1] = {0}, hex[65], kept[65] = "";
    size_t bytes = 0;
    PW_CHECK_OUT(map.bytes > USER_BLOCK, PW_E_FORMAT, "%s: not a state or cache file of this program (only %zu bytes)", path, map.bytes);
    memcpy(seal, map.data, USER_BLOCK);
    PW_CHECK_OUT(strncmp(seal, MAGIC, sizeof MAGIC - 1) == 0 &&
                     sscanf(seal + sizeof MAGIC - 1, "bytes %zu\nsha256 %64[0-9a-f]\n", &bytes, kept) == 2,
                 PW_E_FORMAT, "%s: not a state or cache file of this program (no seal in its first %d bytes)", path, USER_BLOCK);
    PW_CHECK_OUT(bytes == map.bytes - USER_BLOCK, PW_E_FORMAT, "%s: damaged: expected %zu bytes after the seal, got %zu", path, bytes,
                 map.bytes - USER_BLOCK);
    pw_sha256_bytes(map.data + USER_BLOCK, bytes, hex);
    PW_CHECK_OUT(strcmp(hex, kept) == 0, PW_E_FORMAT, "%s: damaged: its SHA-256 differs from the one in its seal", path);
out:
    pw_map_close(&map);
    return rc;
}

int pw_h5_open(struct pw_h5_in **out, const char *path)
{
    *out = NULL;
    PW_PASS(library_start());
    PW_PASS(check_seal(path));
    struct pw_h5_in *in = pw_alloc_zero(1, sizeof *in);
    PW_CHECK(in, PW_E_NOMEM, "%s: no memory", path);
    int rc = 0;
    char why[160];
    in->id = -1;
    in->path = pw_strdup(path);
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    PW_CHECK_OUT(in->path && access >= 0, PW_E_NOMEM, "%s: no memory", path);
    H5Pset_file_locking(access, false, true);
    in->id = H5Fopen(path, H5F_ACC_RDONLY, access);
    PW_CHECK_OUT(in->id >= 0, PW_E_FORMAT, "%s: HDF5 cannot open the file: %s", path, library_reason(why));
    *out = in;
out:
    if (access >= 0)
        H5Pclose(access);
    if (rc < 0)
        pw_h5_close(in);
    return rc;
}

void pw_h5_close(struct pw_h5_in *in)
{
    if (!in)
        return;
    if (in->id >= 0)
        H5Fclose(in->id);
    pw_free(in->path);
    pw_free(in);
}

/* H5Lexists wants every group on the way to exist. */
bool pw_h5_has(struct pw_h5_in *in, const char *name)
{
    char part[256];
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof part)
        return false;
    for (size_t i = 1; i <= n; i++)
        if (name[i] == '/' || name[i] == 0) {
            memcpy(part, name, i);
            part[i] = 0;
            if (H5Lexists(in->id, part, H5P_DEFAULT) <= 0)
                return false;
        }
    return true;
}

struct array { hid_t set, space; int rank; int64_t shape[PW_H5_MAX_RANK], count; };

static void array_close(struct array *a)
{
    if (a->space >= 0)
        H5Sclose(a->space);
    if (a->set >= 0)
        H5Dclose(a->set);
}

static int array_open(struct array *a, struct pw_h5_in *in, const char *name, enum pw_h5_type type)
{
    int rc = 0;
    char why[160];
    *a = (struct array){.set = -1, .space = -1, .count = 1};
    hid_t stored = -1;
    PW_CHECK_OUT(pw_h5_has(in, name), PW_E_FORMAT, "%s: %s is missing", in->path, name);
    a->set = H5Dopen2(in->id, name, H5P_DEFAULT);
    PW_CHECK_OUT(a->set >= 0, PW_E_FORMAT, "%s: %s: not an array: %s", in->path, name, library_reason(why));
    stored = H5Dget_type(a->set);
    PW_CHECK_OUT(stored >= 0 && H5Tequal(stored, file_type(type)) > 0, PW_E_FORMAT, "%s: %s: expected type %s, got another", in->path, name,
                 type_names[type]);
    a->space = H5Dget_space(a->set);
    a->rank = a->space >= 0 ? H5Sget_simple_extent_ndims(a->space) : -1;
    PW_CHECK_OUT(a->rank >= 0 && a->rank <= PW_H5_MAX_RANK, PW_E_FORMAT, "%s: %s: rank %d, expected at most %d", in->path, name, a->rank,
                 PW_H5_MAX_RANK);
    hsize_t dims[PW_H5_MAX_RANK] = {0};
    H5Sget_simple_extent_dims(a->space, dims, NULL);
    for (int i = 0; i < a->rank; i++) {
        a->shape[i] = (int64_t)dims[i];
        PW_CHECK_OUT(pw_mul_i64(a->count, a->shape[i], &a->count), PW_E_FORMAT, "%s: %s: too large", in->path, name);
    }
out:
    if (stored >= 0)
        H5Tclose(stored);
    if (rc < 0)
        array_close(a);
    return rc;
}

int pw_h5_shape(struct pw_h5_in *in, const char *name, enum pw_h5_type type, int *rank, int64_t shape[PW_H5_MAX_RANK])
{
    struct array a;
    PW_PASS(array_open(&a, in, name, type));
    *rank = a.rank;
    memcpy(shape, a.shape, sizeof a.shape);
    array_close(&a);
    return 0;
}

static void shape_text(char text[120], int rank, const int64_t *shape)
{
    size_t at = (size_t)snprintf(text, 120, "(");
    for (int i = 0; i < rank && at < 90; i++)
        at += (size_t)snprintf(text + at, 120 - at, "%s%" PRId64, i ? ", " : "", shape[i]);
    snprintf(text + at, 120 - at, ")");
}

int pw_h5_get(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int rank, const int64_t *shape)
{
    struct array a;
    PW_PASS(array_open(&a, in, name, type));
    int rc = 0;
    char why[160], expected[120], got[120];
    bool same = a.rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = a.shape[i] == shape[i];
    shape_text(expected, rank < 0 ? 0 : rank > PW_H5_MAX_RANK ? PW_H5_MAX_RANK : rank, shape);
    shape_text(got, a.rank, a.shape);
    PW_CHECK_OUT(same, PW_E_FORMAT, "%s: %s: expected shape %s, got %s", in->path, name, expected, got);
    if (a.count > 0)
        PW_CHECK_OUT(H5Dread(a.set, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, PW_E_FORMAT, "%s: %s: HDF5 cannot read: %s",
                     in->path, name, library_reason(why));
out:
    array_close(&a);
    return rc;
}

int pw_h5_get_1d(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int64_t n)
{
    return pw_h5_get(in, name, type, data, 1, &n);
}

int pw_h5_get_2d(struct pw_h5_in *in, const char *name, enum pw_h5_type type, void *data, int64_t rows, int64_t columns)
{
    int64_t shape[2] = {rows, columns};
    return pw_h5_get(in, name, type, data, 2, shape);
}

int pw_h5_get_text(struct pw_h5_in *in, const char *name, struct pw_buf *out)
{
    int rank;
    int64_t shape[PW_H5_MAX_RANK];
    PW_PASS(pw_h5_shape(in, name, PW_H5_U8, &rank, shape));
    PW_CHECK(rank == 1, PW_E_FORMAT, "%s: %s: expected a text, got rank %d", in->path, name, rank);
    pw_buf_clear(out);
    if (shape[0] == 0)
        return 0;
    char *bytes = pw_alloc((size_t)shape[0]);
    PW_CHECK(bytes, PW_E_NOMEM, "%s: %s: no memory", in->path, name);
    int rc = pw_h5_get_1d(in, name, PW_H5_U8, bytes, shape[0]);
    if (rc == 0) {
        pw_buf_add(out, bytes, (size_t)shape[0]);
        rc = pw_buf_status(out);
    }
    pw_free(bytes);
    return rc;
}

int pw_h5_get_i64(struct pw_h5_in *in, const char *name, int64_t *x)
{
    return pw_h5_get(in, name, PW_H5_I64, x, 0, NULL);
}

int pw_h5_get_f64(struct pw_h5_in *in, const char *name, double *x)
{
    return pw_h5_get(in, name, PW_H5_F64, x, 0, NULL);
}
