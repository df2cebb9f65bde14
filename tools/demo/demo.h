/* The parts of the demo's helper program: its text, its tokenizer, its result file. Not part of pw. */
#ifndef PW_TOOLS_DEMO_DEMO_H
#define PW_TOOLS_DEMO_DEMO_H
#include <stdio.h>

int pw_demo_text(int argc, char **argv);             /* corpus, town; exit status */
int pw_demo_tokenizer(FILE *in, int vocab);          /* exit status */
int pw_demo_result(int argc, char **argv);           /* result, same; negative code or exit status */
#endif
