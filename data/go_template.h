/* A chat template in the form that Ollama takes (Go's text/template over .Messages), derived from what the Jinja template renders.
 *
 * The template is rendered on small conversations. When every rendering is the concatenation of fixed texts around the contents of the messages (one
 * pair for each role), with the system message either a message of its own or inside the first or the last message of the user, those texts are
 * the Go template; it is accepted only after it gave the same bytes on further conversations. Anything else (clocks, conditions on contents)
 * is not guessed: there is no Go template then, and a reason. Tools are not covered; contents that the Jinja template trims are taken as they are. */
#ifndef PW_DATA_GO_TEMPLATE_H
#define PW_DATA_GO_TEMPLATE_H

#include "base/memory.h"
#include "data/chat.h"

enum pw_go_system { PW_GO_SYSTEM_NONE, PW_GO_SYSTEM_OWN, PW_GO_SYSTEM_FIRST, PW_GO_SYSTEM_LAST };
struct pw_go_template {
    const char *text;              /* NULL: cannot be derived */
    const char *why;               /* then */
    const char *system;            /* the system message that is there when none is given; NULL: none */
    const char *without;           /* written in front when there is no system message, "" = nothing */
    enum pw_go_system place;
    /* the texts around each role's content, and the generation prompt; lead: before everything (BOS, when it stays) */
    const char *lead, *system_pre, *system_post, *user_pre, *user_post, *assistant_pre, *assistant_post, *generation;
};
/* bos: the text taken off the beginning of renderings, since the reader of the Go template adds BOS itself; "" or NULL: nothing is.
 * Everything in the arena. Not being derivable is no failure. */
int pw_go_template(struct pw_arena *a, const struct pw_chat *c, const char *bos, struct pw_go_template *out);
/* What the Go template gives for roles such as "SUAU" (S system, U user, A assistant) with these contents, and the generation prompt when
 * asked: the definition that deriving checks against. */
int pw_go_template_render(const struct pw_go_template *g, const char *roles, const char *const *contents, bool generation, struct pw_buf *out);
#endif
