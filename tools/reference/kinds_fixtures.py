"""Writes tests/fixtures/tokenizer/kinds/ (small tokenizers of every kind with ids and texts of random strings as their packages give
them) and the refused SentencePiece and tiktoken files. Run from the root: python3 tools/reference/kinds_fixtures.py"""
import json
import os
import struct

import models
import text

OUT = "tests/fixtures/tokenizer/kinds"
BAD = "tests/fixtures/refused/tokenizer"
ROWS = 120


# Cuts of "---" tie but for rounding, which the score of the user-defined piece before them decides.
TIES = [" onbanbano<user>---", "tonbantobanxyz---", "nonaanon the wo---", "\n---", " onba theanban---", "<user>aba---", "п<user>fo---", "..[ thebaba---", "naxyz---", "東 banabxyz---"]


def expected(kind, seed, more=()):
    name, path, encode, decode, _ = kind
    rows = []
    for s in text.strings(seed, ROWS) + list(more):
        ids = encode(s)
        rows.append({"text": s, "ids": ids, "decoded": decode(ids)})
    with open(os.path.splitext(path)[0] + ".expected.json", "w", encoding="utf-8") as f:
        json.dump(rows, f, ensure_ascii=False, separators=(",", ":"))


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(s, score=0.0, kind=1):
    return field(1, field(1, s.encode() if isinstance(s, str) else s) + field(2, score) + field(3, kind))


def refused():
    def write(name, data):
        with open(os.path.join(BAD, name), "wb") as f:
            f.write(data)

    head = piece("<unk>", kind=2) + piece("<s>", kind=3) + piece("</s>", kind=3) + piece("a", -1.0) + piece("b", -2.0) + piece("ab", -3.0)
    bpe = field(2, field(3, 2))
    good = head + bpe
    write("cut.model", good[:-1])
    write("cut-in-piece.model", good[:20])
    write("wire-type.model", head + bytes([2 << 3 | 3]))
    write("field-zero.model", head + b"\x00\x00")
    write("varint-long.model", head + bytes([2 << 3]) + b"\xff" * 10)
    write("length-huge.model", head + bytes([2 << 3 | 2]) + varint(1 << 62) + b"x")
    write("word.model", head + field(2, field(3, 3)))
    write("char.model", head + field(2, field(3, 4)))
    write("suffix.model", head + field(2, field(3, 2) + field(24, 1)))
    write("no-escape.model", good + field(3, field(5, 0)))
    write("denormaliser.model", good + field(5, field(2, b"x")))
    write("no-unk.model", piece("<a>") + piece("b") + bpe)
    write("two-unk.model", head + piece("<unk2>", kind=2) + bpe)
    write("piece-twice.model", head + piece("a") + bpe)
    write("piece-empty.model", head + piece("") + bpe)
    write("piece-not-utf8.model", head + piece(b"\xff\xfe") + bpe)
    write("piece-type.model", head + piece("c", kind=9) + bpe)
    write("piece-score-wire.model", head + field(1, field(1, b"c") + field(2, 3)) + bpe)
    write("score-nan.model", head + piece("c", float("nan")) + bpe)
    write("byte-without-fallback.model", head + piece("<0x41>", kind=6) + bpe)
    write("byte-not-all.model", head + piece("<0x41>", kind=6) + field(2, field(3, 2) + field(35, 1)))
    write("unused-merge.model", head + piece("ba", -4.0, 5) + bpe)
    write("charsmap-short.model", good + field(3, field(2, b"abc")))
    write("charsmap-trie.model", good + field(3, field(2, struct.pack("<I", 4096) + b"\0" * 16)))
    write("charsmap-no-nul.model", good + field(3, field(2, struct.pack("<I", 8) + b"\0" * 8 + b"abc")))
    write("charsmap-not-utf8.model", good + field(3, field(2, struct.pack("<I", 8) + b"\0" * 8 + b"\xff\0")))

    import base64
    lines = [base64.b64encode(bytes([b])).decode() + f" {b}" for b in range(256)] + ["YWI= 256"]
    rank = lambda change: "\n".join(change).encode()
    write("ranks-no-pre.ranks", rank(lines))
    for name, bad in {"byte-missing": lines[:65] + lines[66:], "base64": lines + ["YW*= 257"], "base64-length": lines + ["YWI 257"], "base64-bits": lines + ["YWJ= 257"], "no-rank": lines + ["YWJj"],
                      "rank-word": lines + ["YWJj x"], "rank-huge": lines + ["YWJj 99999999"], "rank-twice": lines + ["YWJj 256"], "token-twice": lines + ["YWI= 257"],
                      "rank-negative": lines + ["YWJj -1"]}.items():
        with open(os.path.join(BAD, f"ranks-{name}.tiktoken"), "wb") as f:
            f.write(rank(bad))


def charsmap():
    """A double array of one string, A -> a."""
    units = [0] * 1024
    units[0] = 0x100 << 10
    units[0x141] = 0x200 << 10 | 1 << 8 | 0x41
    units[0x341] = 1 << 31
    return struct.pack("<I", 4096) + struct.pack("<1024I", *units) + b"a\0"


def corpus():
    """Seeds of the fuzz targets."""
    def write(target, name, data):
        os.makedirs(f"tests/fuzz/corpus/{target}", exist_ok=True)
        with open(f"tests/fuzz/corpus/{target}/{name}", "wb") as f:
            f.write(data)

    head = piece("<unk>", kind=2) + piece("<s>", kind=3) + piece("</s>", kind=3) + b"".join(piece(p, -float(i)) for i, p in enumerate(["▁", "l", "o", "lo", "▁l", "el", "wor", "d!", "H"]))
    user = piece("ll", kind=4) + piece("<|end|>", kind=4)
    normaliser = field(3, field(2, charsmap()) + field(3, 1) + field(4, 1))
    write("tokenizer_model", "a", head + user + field(2, field(3, 2)) + field(3, field(3, 0) + field(4, 0)))
    write("tokenizer_model", "b", head + field(2, field(3, 1)) + normaliser)
    write("tokenizer_model", "c", head + user + b"".join(piece("<0x%02X>" % b, kind=6) for b in range(256)) + field(2, field(3, 1) + field(35, 1)))
    import base64
    lines = [base64.b64encode(bytes([b])).decode() + f" {b}" for b in range(256)] + [base64.b64encode(t).decode() + f" {256 + i}" for i, t in enumerate([b"el", b"lo", b"llo", b" w", b"ld"])]
    write("tokenizer_ranks", "a", b"\0" + "\n".join(lines).encode())
    write("tokenizer_ranks", "b", b"\1" + "\r\n".join(lines[::-1]).encode())
    unigram = {"version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap()).decode()},
               "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "MergedWithNext"}, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}]},
               "post_processor": None, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
               "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": [["<unk>", 0.0], ["▁", -1.5], ["He", -2.5], ["llo", -1.25], ["l", -3.0], ["o", -2.0], ["wor", -5.860044394186251]]}}
    write("tokenizer", "c", json.dumps(unigram, ensure_ascii=False).encode())


def main():
    os.makedirs(OUT, exist_ok=True)
    for i, name in enumerate(["unigram-nfkc", "unigram-bytes", "bpe-bytes"]):
        expected(models.sentencepiece(OUT, name), 100 + i, TIES if name == "unigram-bytes" else ())
    for i, name in enumerate(["llama3", "qwen2", "deepseek-v3", "deepseek-llm", "phi3", "llama2-first", "gemma", "unigram-bytes", "punctuation"]):
        kind = models.huggingface_json(OUT, name)
        if name == "unigram-bytes":
            os.rename(kind[1], os.path.join(OUT, "unigram-json.json"))
            kind = models.huggingface_file(name, os.path.join(OUT, "unigram-json.json"))
        expected(kind, 200 + i)
    ranks = os.path.join(OUT, "gpt-4o.tiktoken")
    models.small_ranks(ranks)
    expected(models.tiktoken_ranks(OUT, "small", ranks, models.GPT4O, "gpt-4o"), 300)
    refused()
    corpus()


if __name__ == "__main__":
    main()
