"""Writes data/unicode_new.c: characters that the regular expressions of the Python package `tokenizers` know and the Unicode
version of older PCRE2 and utf8proc libraries does not, with their categories; those that its normalisers do not know, being
older than the libraries; what it takes for punctuation, by a table that is older still; and marks of which utf8proc does not know
that they belong to the character before. Compares against the libraries of this machine (libpcre2-8 10.42: Unicode 14; libutf8proc 2.8: 15).
Run from the root of the repository: python3 tools/reference/unicode_new.py"""
import ctypes
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

import models

CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So".split()
ALL = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]


def removed(p):
    """The characters that a pre-tokenizer leaves out."""
    out = set()
    for i in range(0, len(ALL), 2000):
        s = "".join(map(chr, ALL[i:i + 2000]))
        out |= set(s) - set("".join(x for x, _ in p.pre_tokenize_str(s)))
    return {ord(c) for c in out}


def members(category):
    return removed(pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed"))


def ranges(points):
    out = []
    for c in sorted(points):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def inert():
    """What utf8proc decomposes or reorders and the package's normalisers leave alone."""
    lib, libc = ctypes.CDLL("libutf8proc.so.2"), ctypes.CDLL(None)
    lib.utf8proc_map.restype = ctypes.c_ssize_t

    def ours(s, options):
        b, out = s.encode(), ctypes.c_void_p()
        n = lib.utf8proc_map(b, ctypes.c_ssize_t(len(b)), ctypes.byref(out), options)
        r = ctypes.string_at(out, n).decode()
        libc.free(out)
        return r

    nfd, nfkd, bad = normalizers.NFD(), normalizers.NFKD(), set()
    for c in ALL:
        for s in (chr(c), "a" + chr(c) + "\u0323", "a\u0301" + chr(c)):
            if nfd.normalize_str(s) != ours(s, 2 | 16):
                bad.add(c)
        if nfkd.normalize_str(chr(c)) != ours(chr(c), 2 | 16 | 4):
            bad.add(c)
    return bad


def joining():
    """Marks that make a cluster with n and a cedilla too long to be looked up as one, in the package and not in utf8proc."""
    normalizer, lib, out = normalizers.Precompiled(models.precompiled()), ctypes.CDLL("libutf8proc.so.2"), set()
    for c in (c for c in ALL if c >= 0x800):
        state = ctypes.c_int32(0)
        lib.utf8proc_grapheme_break_stateful(ord("n"), 0x327, ctypes.byref(state))
        if lib.utf8proc_grapheme_break_stateful(0x327, c, ctypes.byref(state)) and "\u0146" not in normalizer.normalize_str("n\u0327" + chr(c)):
            out.add(c)
    return out


def main():
    assert unicodedata.unidata_version == "14.0.0", "run with a Python whose unicodedata is 14.0.0, the oldest library's version"
    rows = []
    for k in CATEGORIES:
        new = {c for c in members(k) if unicodedata.category(chr(c)) == "Cn"}
        rows += [(a, b, k) for a, b in ranges(new)]
    with open("data/unicode_new.c", "w") as f:
        f.write("/* Characters whose properties depend on the version of Unicode; made by tools/reference/unicode_new.py. */\n#include \"data/unicode_new.h\"\n\n")
        f.write("const struct pw_unicode_range pw_unicode_new[] = {\n")
        for a, b, k in sorted(rows):
            f.write(f"    {{ 0x{a:05X}, 0x{b:05X}, \"{k}\" }},\n")
        f.write("    { 0, 0, \"\" },\n};\n\nconst struct pw_unicode_range pw_unicode_inert[] = {\n")
        for a, b in ranges(inert()):
            f.write(f"    {{ 0x{a:05X}, 0x{b:05X}, \"\" }},\n")
        f.write("    { 0, 0, \"\" },\n};\n\nconst struct pw_unicode_range pw_unicode_punctuation[] = {\n")
        for a, b in ranges(removed(pre_tokenizers.Punctuation("removed"))):
            f.write(f"    {{ 0x{a:05X}, 0x{b:05X}, \"\" }},\n")
        f.write("    { 0, 0, \"\" },\n};\n\nconst struct pw_unicode_range pw_unicode_joining[] = {\n")
        for a, b in ranges(joining()):
            f.write(f"    {{ 0x{a:05X}, 0x{b:05X}, \"\" }},\n")
        f.write("    { 0, 0, \"\" },\n};\n")


if __name__ == "__main__":
    main()
