"""Writes tests/fixtures/tokenizer/ and tests/fixtures/refused/tokenizer/.

Small tokenizers are trained here with the Python package `tokenizers` (0.23.3), each with other parts; for each,
NAME.json is the tokenizer and NAME.expected.json a list of {"text", "ids", "start" (byte offsets, -1 for added tokens),
"decoded", "plain" (special tokens left out)}, all as the package gives them. Two quirks of the package are left out:
it shifts the offsets after a character it drops, and decodes a special token marked `normalized` as its normalised text,
so decoding here goes through the decoder itself. Run from the root of the repository: python3 tools/reference/tokenizer_fixtures.py
"""
import copy
import json
import os
import random
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = "tests/fixtures/tokenizer"
BAD = "tests/fixtures/refused/tokenizer"
WORDS = ("the old miller of the village said that the river would rise again before the winter and nobody believed him "
         "until 1234 sheep stood in 56 fields of water; it's what they'd say: we'll see, I'm sure! naïve café über straße "
         "Москва 東京 日本語 안녕 مرحبا 🙂👍 x = y + 42 aaaa zzz hahahah nnnnn aaa zzzz").split(" ")
EDGE = ["", " ", "  ", "   a", "a   ", "\n", "\n\n a\r\n\tb", "Hello world", "the the  the", "it's we'LL they'd", "12345 67 ½ Ⅷ ٣", "é e\u0301 ﬁ ＡＢ ① 가 \u1100\u1161",
        "ǅ İI ΣΑΣ", "🙂👍👩‍👩‍👧", "日本語 東京", "\u00a0\u180e\u2003x\u0085y", "<unk> <s> </s>", "a<s>b </s> c", "x <mask> y<mask>z", "  <mask>  ", "▁a▁▁b", "Ġa <0x41>",
        "a" * 60, " " * 40, "\U0010ffff\u0000\u0001", "word wordword sword <w> a<w>b <w>", "z" * 61, "aaaz" * 20, "hahah" * 13, "nnnaa" * 11 + "zzz", "aaaaa zzzzz aaa zzzzzzz hahahaha nnn", "aeiou,, queue  12a34", "q\u0300\u0323 \u0323\u0307"]


def texts(seed):
    r = random.Random(seed)
    out = list(EDGE)
    for _ in range(40):
        out.append("".join(r.choice(WORDS + [" ", "  ", "\n", "<s>", " <mask> ", "é", "7"]) + r.choice([" ", " ", "", ", "]) for _ in range(r.randint(1, 9))))
    return out


def expected(tok, seed):
    spec = {i for i, a in tok.get_added_tokens_decoder().items() if a.special}
    names = {i: t for t, i in json.loads(tok.to_str())["model"]["vocab"].items()}
    names.update({i: a.content for i, a in tok.get_added_tokens_decoder().items()})

    def decode(ids):
        pieces = [names[i] for i in ids]
        return tok.decoder.decode(pieces) if tok.decoder else " ".join(pieces)

    rows = []
    for text in texts(seed):
        e = tok.encode(text)
        at = [0]
        for c in text:
            at.append(at[-1] + len(c.encode()))
        start = [-1 if a == b == 0 and n in spec and (i == 0 or i == len(e.ids) - 1) and m else at[a]
                 for i, ((a, b), n, m) in enumerate(zip(e.offsets, e.ids, e.special_tokens_mask))]
        rows.append({"text": text, "ids": e.ids, "start": start, "decoded": decode(e.ids), "plain": decode([i for i in e.ids if i not in spec])})
    return rows


def train(tok, vocab=330, special=("<unk>", "<s>", "</s>"), alphabet=()):
    corpus = [" ".join(random.Random(i).choices(WORDS, k=30)) for i in range(200)]
    tok.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(special), initial_alphabet=list(alphabet), show_progress=False))
    return tok


def with_bytes(tok):
    """byte_fallback needs the 256 byte tokens in the vocabulary: put in after the three special ones."""
    d = json.loads(tok.to_str())
    old = sorted(d["model"]["vocab"].items(), key=lambda kv: kv[1])
    pieces = [p for p, _ in old[:3]] + ["<0x%02X>" % b for b in range(256)] + [p for p, _ in old[3:]]
    d["model"]["vocab"] = {p: i for i, p in enumerate(pieces)}
    d["model"].update(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    return Tokenizer.from_str(json.dumps(d))


def build():
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    all_ = {}

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    train(t, 330, alphabet=alphabet)
    t.decoder = decoders.ByteLevel()
    t.add_tokens([AddedToken("<w>", single_word=True, special=False, normalized=False)])
    t.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    all_["bytelevel"] = t

    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    train(t, 300, alphabet=alphabet)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True, add_prefix_space=True),
                                            processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])])
    all_["bytelevel-trim"] = t

    t = Tokenizer(models.BPE(ignore_merges=True))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    train(t, 330, alphabet=alphabet)
    t.decoder = decoders.ByteLevel()
    all_["split-digits"] = t

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    train(t, 160)
    t = with_bytes(t)
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    all_["sentencepiece"] = t

    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip(), normalizers.Replace(Regex(r"\s+"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    train(t, 120)
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    t.add_tokens([AddedToken("<W>", single_word=True, special=False, normalized=True)])
    all_["metaspace"] = t

    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.normalizer = normalizers.NFD()
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    train(t, 160) # merges that the steps below cut across
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "merged_with_previous"), pre_tokenizers.Split(Regex("[aeiou]"), "merged_with_next"),
                                               pre_tokenizers.Split(Regex("[0-9]"), "contiguous"), pre_tokenizers.Split(",", "removed"),
                                               pre_tokenizers.Split(Regex(r"\w+|[^\w\s]+"), "removed", invert=True)])
    all_["splits"] = t
    return all_


def refuse(name, value):
    data = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    with open(os.path.join(BAD, name), "wb") as f:
        f.write(data)


def refused():
    base = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}

    def change(*path_value):
        d = copy.deepcopy(base)
        *path, value = path_value
        at = d
        for p in path[:-1]:
            at = at[p]
        at[path[-1]] = value
        return d

    refuse("model-wordpiece.json", change("model", "type", "WordPiece"))
    refuse("pre-bert.json", change("pre_tokenizer", {"type": "BertPreTokenizer"}))
    refuse("normalizer-accents.json", change("normalizer", {"type": "StripAccents"}))
    refuse("normalizer-precompiled-base64.json", change("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AB*="}))
    refuse("regex-property.json", change("pre_tokenizer", {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "\\p{Greek}"}}))
    refuse("unigram-bytelevel.json", change("model", {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0]]}) | {"pre_tokenizer": {"type": "ByteLevel"}})
    refuse("unigram-row.json", change("model", {"type": "Unigram", "unk_id": 0, "vocab": [["a"]]}))
    refuse("unigram-unk.json", change("model", {"type": "Unigram", "unk_id": 7, "vocab": [["a", 0]]}))
    refuse("unigram-map.json", change("model", {"type": "Unigram", "unk_id": 0, "vocab": {"a": 0}}))
    refuse("pre-after-bytelevel.json", change("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]}))
    refuse("pre-behaviour.json", change("pre_tokenizer", {"type": "Split", "behavior": "Sideways", "pattern": {"String": "x"}}))
    refuse("pre-regex.json", change("pre_tokenizer", {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "(a"}}))
    refuse("pre-nested-class.json", change("pre_tokenizer", {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": "[a[b]]"}}))
    refuse("pre-no-pattern.json", change("pre_tokenizer", {"type": "Split", "behavior": "Isolated"}))
    refuse("normalizer-precompiled.json", change("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}))
    refuse("normalizer-no-type.json", change("normalizer", {}))
    refuse("normalizer-prepend.json", change("normalizer", {"type": "Prepend"}))
    nested = {"type": "NFC"}
    for _ in range(20):
        nested = {"type": "Sequence", "normalizers": [nested]}
    refuse("normalizer-deep.json", change("normalizer", nested))
    refuse("post-roberta.json", change("post_processor", {"type": "RobertaProcessing"}))
    refuse("post-missing-token.json", change("post_processor", {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]}))
    refuse("post-no-sequence.json", change("post_processor", {"type": "TemplateProcessing", "single": []}))
    refuse("decoder-ctc.json", change("decoder", {"type": "CTC"}))
    refuse("decoder-after-fuse.json", change("decoder", {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]}))
    refuse("dropout.json", change("model", "dropout", 0.1))
    refuse("prefix.json", change("model", "continuing_subword_prefix", "##"))
    refuse("suffix.json", change("model", "end_of_word_suffix", "</w>"))
    refuse("merge-unknown.json", change("model", "merges", ["a c"]))
    refuse("merge-three.json", change("model", "merges", ["a b a"]))
    refuse("merge-number.json", change("model", "merges", [3]))
    refuse("merges-missing.json", change("model", "merges", None))
    refuse("vocab-list.json", change("model", "vocab", ["a"]))
    refuse("vocab-empty.json", change("model", "vocab", {}))
    refuse("vocab-negative.json", change("model", "vocab", {"a": -1}))
    refuse("vocab-huge.json", change("model", "vocab", {"a": 2000000000}))
    refuse("vocab-twice.json", change("model", "vocab", {"a": 0, "b": 0}))
    refuse("unk-missing.json", change("model", "unk_token", "<unk>"))
    refuse("added-mismatch.json", change("added_tokens", [{"id": 1, "content": "a"}]))
    refuse("added-huge.json", change("added_tokens", [{"id": 1 << 40, "content": "z"}]))
    refuse("added-empty.json", change("added_tokens", [{"id": 3, "content": ""}]))
    refuse("added-no-id.json", change("added_tokens", [{"content": "z"}]))
    refuse("no-model.json", {"version": "1.0"})
    refuse("truncated.json", json.dumps(base).encode()[:90])
    refuse("not-json.json", b"\x80\x04\x95")
    refuse("empty.json", b"")
    refuse("duplicate-key.json", b'{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}')

    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n"] + [b"<0x%02X>" % b for b in range(256)] + [b" ", b"a", b" a"]
    rows = [struct.pack("<fi", -float(i), len(p)) + p for i, p in enumerate(pieces)]
    good = struct.pack("<i", 6) + b"".join(rows)
    refuse("truncated.bin", good[:-1])
    refuse("trailing.bin", good + b"x")
    refuse("empty.bin", b"")
    refuse("longest-negative.bin", struct.pack("<i", -1) + good[4:])
    refuse("longest-too-short.bin", struct.pack("<i", 3) + good[4:])
    refuse("length-negative.bin", good[:8] + struct.pack("<i", -5) + good[12:])
    refuse("score-nan.bin", good[:4] + struct.pack("<f", float("nan")) + good[8:])
    refuse("not-utf8.bin", good[:-1] + b"\xff")
    refuse("twice.bin", good[:-10] + struct.pack("<fi", 0, 1) + b"a" + b"x")
    refuse("bytes-elsewhere.bin", good.replace(b"<0x41>", b"<0xZZ>"))
    with open(os.path.join(OUT, "llama2c.bin"), "wb") as f:
        f.write(good)


def main():
    os.makedirs(OUT, exist_ok=True)
    os.makedirs(BAD, exist_ok=True)
    for i, (name, tok) in enumerate(build().items()):
        # Merges as pairs in one file, as strings in another: both forms are in use.
        d = json.loads(tok.to_str())
        if name == "bytelevel-trim":
            d["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in d["model"]["merges"]]
        with open(f"{OUT}/{name}.json", "w", encoding="utf-8") as f:
            json.dump(d, f, ensure_ascii=False, separators=(",", ":"))
        with open(f"{OUT}/{name}.expected.json", "w", encoding="utf-8") as f:
            json.dump(expected(Tokenizer.from_file(f"{OUT}/{name}.json"), i), f, ensure_ascii=False, separators=(",", ":"))
    refused()


if __name__ == "__main__":
    main()
