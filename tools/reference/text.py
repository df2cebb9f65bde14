"""Random text for comparisons: every plane of Unicode, combining marks, white space, emoji sequences, look-alikes of special
tokens. One seed gives one list."""
import random
import unicodedata

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<0x41>", "<0xE2>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<bos>",
           "<start_of_turn>", "<user>", "<|", "|>", "<mask>", "<w>", "<s", "s>", "</", "<|im_start|", "▁", "▁▁", "Ġ", "Ċ", "\u0120the"]
WORDS = ("the of and Hello world it's we'll they'RE don't I'm you'd naïve café straße Москва привет 東京 日本語 中文 한국어 안녕 مرحبا שלום हिन्दी ไทย "
         "ǅ İstanbul ΣΊΣΥΦΟΣ ﬁne ＦＵＬＬ ① ½ Ⅷ ٣٤ 1234567 3.14 0xFF foo_bar x==y; // ... --- !!! ???\" '' () {} [] a.b @user #tag $9 50% ſ 'ſ K Å").split(" ")
SPACES = [" ", " ", " ", "  ", "   ", "        ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\u200b", "\u180e", "\u0085", "\u2028", "\ufeff", "\x0b", "\x1c", "\x00"]
EMOJI = ["🙂", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "👨🏿‍🚀"]
MARKS = ["\u0301", "\u0323", "\u0308", "\u0345", "\u0e49", "\u064e", "\u20e3", "\u0327", "\u1dce", "\u3099", "\u0f71", "\U0001d165"]


SYLLABLES = ["ba", "ab", "na", "an", "a", "b", "ban", "nab", "to", "ot", "t", "on", "no", "ton"]


def overlapping(r):
    """A word that can be cut in many ways."""
    return "".join(r.choices(SYLLABLES, weights=[9, 3, 8, 2, 6, 1, 5, 1, 4, 2, 1, 3, 2, 2], k=r.randrange(2, 7)))


def known(cp):
    """Assigned long ago: packages carry different versions of Unicode, and newer characters are compared elsewhere."""
    return unicodedata.ucd_3_2_0.category(chr(cp)) != "Cn"


def character(r, all_planes=True):
    while True:
        k = r.random()
        cp = (r.randrange(1, 0x80) if k < .3 else r.randrange(0x80, 0x800) if k < .5 else r.randrange(0x800, 0x3100) if k < .65 else r.randrange(0x3100, 0x10000) if k < .8 else
              r.randrange(0x10000, 0x20000) if k < .93 else r.randrange(0x20000, 0x110000))
        if not 0xD800 <= cp < 0xE000 and (all_planes or known(cp)):
            return chr(cp)


def sweep(step=40):
    """Every code point of the planes that hold characters, beside letters and marks."""
    points = [c for c in list(range(1, 0x32400)) + list(range(0xE0000, 0xE0200)) if not 0xD800 <= c < 0xE000]
    return ["".join("a" + chr(c) + ("\u0323" if c & 1 else " ") for c in points[i:i + step]) for i in range(0, len(points), step)]


def strings(seed, n, all_planes=True):
    r = random.Random(seed)
    out = ["", " ", "  ", "\n", "a", " " * 300, "a" * 400, "\u0301", "\U0010ffff", "▁", "<s>", "🙂" * 50]
    while len(out) < n:
        s = []
        style = r.random()
        for _ in range(r.randrange(1, 30)):
            k = r.random()
            if style < .1:
                s.append(character(r, all_planes))
            elif k < .35:
                s.append(r.choice(WORDS) if r.random() < .7 else overlapping(r))
            elif k < .55:
                s.append(r.choice(SPACES))
            elif k < .62:
                s.append(r.choice(SPECIAL))
            elif k < .68:
                s.append(r.choice(EMOJI))
            elif k < .76:
                s.append(r.choice(MARKS))
            elif k < .8:
                s.append(r.choice(SPACES + ["a", "z", "=", "0"]) * r.randrange(1, 70))
            else:
                s.append(character(r, all_planes))
        out.append("".join(s))
    return out[:n]
