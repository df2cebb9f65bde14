/* Plugins: shared objects that lie beside the program, one folder up, or in ../lib/pennyweight. Knows nothing of what is in them. */
#ifndef PW_BASE_PLUGIN_H
#define PW_BASE_PLUGIN_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif
/* The symbol of the file, which stays loaded until the program ends. everyone: its symbols, and those of the libraries it needs, serve libraries that are
 * loaded later. A file that is absent or does not load is PW_E_REFUSED; a symbol that it lacks gives NULL. */
int pw_plugin_symbol(void **out, const char *file, const char *symbol, bool everyone);
/* Is there a shared library of this name where the system looks for them? Then it stays loaded. */
bool pw_library_is_there(const char *name);
#ifdef __cplusplus
}
#endif
#endif
