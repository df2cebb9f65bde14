/* Files compiled into the program. What lies under the current folder by the same name wins, so that a user's own recipe or
 * page is used without a word. */
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"

int pw_embedded_read(const char *name, struct pw_buf *out)
{
    if (name[0] && pw_file_exists(name)) return pw_file_read(name, 0, out);
    for (const struct pw_embedded *f = pw_embedded_files; f->name; f++)
        if (strcmp(f->name, name) == 0) {
            pw_buf_add(out, f->data, f->bytes);
            return pw_buf_status(out);
        }
    return pw_error(PW_E_IO, "%s: no such file, and none of that name is built in", name);
}
