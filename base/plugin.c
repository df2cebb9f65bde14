/* See plugin.h. */
#include "base/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

int pw_plugin_symbol(void **out, const char *file, const char *symbol, bool everyone)
{
    static const char *const folders[] = {"", "../", "../lib/pennyweight/"};
    char program[3072], path[4096], why[256];
    *out = NULL;
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    PW_CHECK(n > 0, PW_E_IO, "cannot find the folder of this program");
    program[n] = 0;
    *(strrchr(program, '/') + 1) = 0;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s%s", program, folders[i], file);
        if (access(path, F_OK) != 0)
            continue;
        void *library = dlopen(path, RTLD_NOW | (everyone ? RTLD_GLOBAL : RTLD_LOCAL));
        if (!library) {
            snprintf(why, sizeof why, "%s", dlerror());
            return pw_error(PW_E_REFUSED, "%s does not load: %s", path, why);
        }
        *out = dlsym(library, symbol);
        return 0;
    }
    return pw_error(PW_E_REFUSED, "%s is not there (looked in %s, its parent, and ../lib/pennyweight)", file, program);
}

bool pw_library_is_there(const char *name) { return dlopen(name, RTLD_LAZY | RTLD_LOCAL) != NULL; }
