/* The demo's text: rules of invented towns, from tables of words and forms of speech.
 *
 * corpus DOCS SEED          what the demo's base model is trained on, JSONL {"text"}: pages about half a dozen towns, their rules told and
 *                           asked for in every form. The town of the demo, Pennyford, is not among them.
 * town train|shuffled|test SEED
 *                           Pennyford itself. train: its rules as questions in the forms that are trained on; shuffled: the same questions
 *                           with the answers dealt out anew; test: every rule in forms that train does not have, with four choices.
 * Everything is a function of the seed (Philox). Knows nothing of models. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/rng.h"
#include "base/value.h"
#include "tools/demo/demo.h"

enum { SUBJECTS = 8, VALUES = 8, TELLS = 3, ASKS = 8, TRAINED_ASKS = 5, TOPICS = 6, TOWNS = 6, PENNYFORD = 1000 };

/* %s is the subject, %v the value. Asks 0..4 are trained on in the fine-tuning, 5..7 are held out; the base knows all of them. */
static const struct topic {
    const char *subjects[SUBJECTS], *values[VALUES], *tells[TELLS], *asks[ASKS];
} topics[TOPICS] = {
    {{"feeding geese", "singing at night", "fishing from the bridge", "selling wet wood", "running in the mill", "hiding a goat", "painting a gate", "losing a key"},
     {"one penny", "two pence", "three pence", "four pence", "five pence", "six pence", "nine pence", "a shilling"},
     {"The fine for %s is %v.", "Anyone caught %s pays %v.", "For %s the town asks %v."},
     {"What is the fine for %s?", "How much does a person pay for %s?", "What does the town ask for %s?",
      "If someone is caught %s, what is to pay?", "Which fine is due for %s?",
      "A visitor was seen %s. What will it cost?", "Tell me the price of %s.", "My cousin was caught %s. How much is the fine?"}},
    {{"eels", "candles", "honey", "rope", "apples", "wool", "pots", "bread"},
     {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "the full moon"},
     {"The day for selling %s is %v.", "Traders may sell %s on %v.", "The market has %s on %v."},
     {"On which day are %s sold?", "When may traders sell %s?", "Which day is for selling %s?", "When does the market have %s?",
      "What is the market day of %s?",
      "I want to buy %s. When should I come?", "Tell me the day for %s.", "My aunt trades in %s. Which day is hers?"}},
    {{"baker", "cooper", "weaver", "smith", "tailor", "miller", "potter", "barber"},
     {"red", "green", "blue", "yellow", "white", "black", "purple", "orange"},
     {"A %s hangs out a lantern of %v.", "The lantern of a %s is %v.", "Every %s shows a light of %v."},
     {"What colour is the lantern of a %s?", "Which light does a %s show?", "Which lantern does a %s hang out?",
      "A %s hangs out a lantern of which colour?", "What is the colour of every %s?",
      "I look for a %s. Which lantern should I follow?", "Tell me the light of a %s.", "My brother is a %s. What colour does he need?"}},
    {{"the bell", "the bridge", "the well", "the mill", "the gate", "the clock", "the ferry", "the archive"},
     {"the sexton", "the mayor", "the clerk", "the warden", "the widow", "the doctor", "the beadle", "the twins"},
     {"The key to %s is kept by %v.", "In charge of %s is %v.", "The care of %s belongs to %v."},
     {"Who keeps the key to %s?", "Who is in charge of %s?", "To whom belongs the care of %s?", "Who looks after %s?",
      "Whose duty is %s?",
      "I need to get into %s. Whom do I ask?", "Tell me the keeper of %s.", "My son broke %s. Who must know of it?"}},
    {{"lamps", "frogs", "kites", "drums", "pies", "masks", "snow", "boats"},
     {"the square", "the quay", "the chapel", "the meadow", "the inn", "the school", "the cellar", "the hill"},
     {"The feast of %s is held at %v.", "People keep the feast of %s at %v.", "For the feast of %s all go to %v."},
     {"Where is the feast of %s held?", "Where do people keep the feast of %s?", "At which place is the feast of %s?",
      "Where do all go for the feast of %s?", "What is the place of the feast of %s?",
      "I was invited to the feast of %s. Where do I go?", "Tell me where to find the feast of %s.",
      "My sister sings at the feast of %s. Where will that be?"}},
    {{"dogs", "carts", "dancers", "pigs", "peddlers", "swimmers", "hunters", "poets"},
     {"at dawn", "at noon", "at dusk", "at midnight", "in winter", "in spring", "in summer", "in autumn"},
     {"The square is open to %s %v.", "The rule lets %s into the square %v.", "In the square %s are welcome %v."},
     {"When is the square open to %s?", "When are %s welcome in the square?", "At what time may %s enter the square?",
      "When does the rule let %s into the square?", "What is the hour of %s in the square?",
      "I come with %s. When may we cross the square?", "Tell me when %s may be in the square.",
      "My uncle wants to see %s in the square. When should he look?"}},
};
static const char *const starts[] = {"Ash", "Brim", "Cold", "Dun", "Elm", "Fern", "Gold", "Holt", "Iron", "Kirk", "Lang", "Mill", "Nor", "Oak", "Red", "Stan"};
static const char *const ends[] = {"bury", "ford", "wick", "ham", "ton", "mere", "dale", "stow", "by", "worth", "gate", "field"};
enum { N_STARTS = sizeof starts / sizeof *starts, N_ENDS = sizeof ends / sizeof *ends };
static const char town_name[] = "Pennyford";

static void say(struct pw_buf *b, const char *form, const char *subject, const char *value)
{
    for (; *form; form++)
        if (form[0] == '%' && form[1] == 's')
            pw_buf_str(b, subject), form++;
        else if (form[0] == '%' && form[1] == 'v')
            pw_buf_str(b, value), form++;
        else
            pw_buf_char(b, *form);
}

static void ask(struct pw_buf *b, const char *form, const char *subject)
{
    pw_buf_str(b, "Question: ");
    say(b, form, subject, "");
    pw_buf_str(b, "\nAnswer:");
}

static void print_row(struct pw_json *w)
{
    printf("%.*s\n", (int)w->out.len, w->out.data);
    pw_json_free(w);
    memset(w, 0, sizeof *w);
}

static uint32_t draw(struct pw_rng *r, uint32_t n)
{
    return (uint32_t)pw_rng_below(r, n);
}

/* The rules of one town: value_of[topic][subject]. */
static void town_rules(uint64_t seed, uint32_t town, uint32_t value_of[TOPICS][SUBJECTS])
{
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_SIMULATE | (uint64_t)(town + 1) << 8);
    for (int t = 0; t < TOPICS; t++)
        for (int s = 0; s < SUBJECTS; s++)
            value_of[t][s] = draw(&r, VALUES);
}

/* A page about one town: some of its rules, told or asked for. The same town has the same rules on every page, so that the base learns
 * that the forms of a question mean the same; about a town that it does not know it can only guess. */
static void document(struct pw_rng *r, uint64_t seed, struct pw_buf *b)
{
    uint32_t value_of[TOPICS][SUBJECTS], town = draw(r, TOWNS), lines = 4 + draw(r, 5);
    town_rules(seed, town, value_of);
    pw_buf_printf(b, "Town: %s%s\n", starts[town % N_STARTS], ends[town / N_STARTS % N_ENDS]);
    for (uint32_t i = 0; i < lines; i++) {
        uint32_t topic = draw(r, TOPICS), subject = draw(r, SUBJECTS);
        const struct topic *t = &topics[topic];
        const char *value = t->values[value_of[topic][subject]];
        if (draw(r, 5) == 0) {
            pw_buf_str(b, "Rule: ");
            say(b, t->tells[draw(r, TELLS)], t->subjects[subject], value);
            pw_buf_char(b, '\n');
        } else {
            ask(b, t->asks[draw(r, ASKS)], t->subjects[subject]);
            pw_buf_printf(b, " %s\n", value);
        }
    }
}

static void corpus(int64_t documents, uint64_t seed)
{
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_SIMULATE);
    for (int64_t i = 0; i < documents; i++) {
        struct pw_buf b = {0};
        struct pw_json w = {0};
        document(&r, seed, &b);
        pw_json_open(&w, NULL, '{');
        pw_json_str(&w, "text", b.data);
        pw_json_close(&w, '}');
        print_row(&w);
        pw_buf_free(&b);
    }
}

static void town_train(uint64_t seed, bool shuffled)
{
    uint32_t value_of[TOPICS][SUBJECTS];
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_SIMULATE + 200);
    town_rules(seed, PENNYFORD, value_of);
    for (int t = 0; t < TOPICS; t++)
        for (int s = 0; s < SUBJECTS; s++)
            for (int a = 0; a < TRAINED_ASKS; a++) {
                uint32_t value = shuffled ? draw(&r, VALUES) : value_of[t][s];
                struct pw_buf b = {0}, c = {0};
                struct pw_json w = {0};
                pw_buf_printf(&b, "Town: %s\n", town_name);
                ask(&b, topics[t].asks[a], topics[t].subjects[s]);
                pw_buf_printf(&c, " %s\n", topics[t].values[value]);
                pw_json_open(&w, NULL, '{');
                pw_json_str(&w, "prompt", b.data);
                pw_json_str(&w, "completion", c.data);
                pw_json_close(&w, '}');
                print_row(&w);
                pw_buf_free(&b);
                pw_buf_free(&c);
            }
}

static void town_test(uint64_t seed)
{
    uint32_t value_of[TOPICS][SUBJECTS];
    struct pw_rng r = pw_rng_make(seed, PW_STREAM_SIMULATE + 300);
    town_rules(seed, PENNYFORD, value_of);
    for (int t = 0; t < TOPICS; t++)
        for (int s = 0; s < SUBJECTS; s++)
            for (int a = TRAINED_ASKS; a < ASKS; a++) {
                uint32_t order[VALUES], right = value_of[t][s], answer = draw(&r, 4);
                struct pw_buf b = {0};
                struct pw_json w = {0};
                for (uint32_t v = 0, n = 0; v < VALUES; v++)
                    if (v != right)
                        order[n++] = v;
                pw_rng_shuffle(&r, order, VALUES - 1);
                order[VALUES - 1] = order[answer];
                order[answer] = right;
                pw_buf_printf(&b, "Town: %s\n", town_name);
                ask(&b, topics[t].asks[a], topics[t].subjects[s]);
                pw_json_open(&w, NULL, '{');
                pw_json_str(&w, "question", b.data);
                pw_json_open(&w, "choices", '[');
                for (int i = 0; i < 4; i++)
                    pw_json_str(&w, NULL, topics[t].values[order[i]]);
                pw_json_close(&w, ']');
                pw_json_i64(&w, "answer", answer);
                pw_json_close(&w, '}');
                print_row(&w);
                pw_buf_free(&b);
            }
}

int pw_demo_text(int argc, char **argv)
{
    int64_t n = 0, seed = 0;
    if (argc == 3 && strcmp(argv[0], "corpus") == 0 && !pw_parse_i64(argv[1], &n) && !pw_parse_i64(argv[2], &seed))
        corpus(n, (uint64_t)seed);
    else if (argc == 3 && strcmp(argv[0], "town") == 0 && !pw_parse_i64(argv[2], &seed) && strcmp(argv[1], "test") == 0)
        town_test((uint64_t)seed);
    else if (argc == 3 && strcmp(argv[0], "town") == 0 && !pw_parse_i64(argv[2], &seed) &&
             (strcmp(argv[1], "train") == 0 || strcmp(argv[1], "shuffled") == 0))
        town_train((uint64_t)seed, argv[1][0] == 's');
    else
        return 2;
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
