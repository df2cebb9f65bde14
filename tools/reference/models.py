"""Small tokenizers of every kind, trained with the field's own packages; deterministic. Each builder writes into a folder and
returns (name, path, encode, decode, options of pw): encode(text) -> ids, decode(ids) -> text as the package does it."""
import base64
import io
import json
import os
import random

import sentencepiece as spm
import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers as pre, processors, trainers

from text import WORDS, overlapping

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
CL100K = r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
GPT4O = "|".join([r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
                  r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
                  r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""])
DEEPSEEK3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def corpus(n=400):
    words = WORDS + "river miller village winter sheep field water said again before nobody believed would rise until stood that they from with have this will your".split()
    return [" ".join(random.Random(i).choices(words, k=25) + [overlapping(random.Random(1000 * i + k)) for k in range(25)]) for i in range(n)]


# ---- sentencepiece ----

SENTENCEPIECE = {
    "unigram-nfkc": dict(model_type="unigram", vocab_size=330, normalization_rule_name="nmt_nfkc"),
    "unigram-bytes": dict(model_type="unigram", vocab_size=640, normalization_rule_name="identity", byte_fallback=True, user_defined_symbols=["<user>", "▁the", "\n", "xyz"],
                          control_symbols=["[INST]", "[/INST]"], remove_extra_whitespaces=False),
    "unigram-fold": dict(model_type="unigram", vocab_size=330, normalization_rule_name="nmt_nfkc_cf", add_dummy_prefix=False, pad_id=3, user_defined_symbols=["<user>", "é "]),
    "bpe-nfkc": dict(model_type="bpe", vocab_size=330, normalization_rule_name="nmt_nfkc"),
    "bpe-bytes": dict(model_type="bpe", vocab_size=640, normalization_rule_name="identity", byte_fallback=True, user_defined_symbols=["<user>", "  ", "   ", "\n", "wo"],
                      control_symbols=["[INST]"], remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "bpe-plain": dict(model_type="bpe", vocab_size=300, normalization_rule_name="nfkc", add_dummy_prefix=False, byte_fallback=False, character_coverage=0.98, unk_surface="?"),
}


def sentencepiece_model(name):
    out = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(corpus()), model_writer=out, hard_vocab_limit=False, minloglevel=2, num_threads=1, **SENTENCEPIECE[name])
    return out.getvalue()


def sentencepiece(folder, name):
    path = os.path.join(folder, name + ".model")
    with open(path, "wb") as f:
        f.write(sentencepiece_model(name))
    return sentencepiece_file(name, path)


def sentencepiece_file(name, path):
    sp = spm.SentencePieceProcessor(model_file=path)
    return name, path, sp.encode, sp.decode, []


# ---- tokenizer.json ----

def split(pattern, behaviour="isolated", invert=False):
    return pre.Split(Regex(pattern), behaviour, invert)


def byte_level(name, pre_tokenizer, normalizer=None, specials=("<|endoftext|>", "<|im_start|>", "<|im_end|>"), **model):
    t = Tokenizer(models.BPE(**model))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=600, special_tokens=list(specials), initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False))
    t.decoder = decoders.ByteLevel()
    return t


def with_bytes(t, fuse=True):
    d = json.loads(t.to_str())
    old = sorted(d["model"]["vocab"].items(), key=lambda kv: kv[1])
    pieces = [p for p, _ in old[:3]] + ["<0x%02X>" % b for b in range(256)] + [p for p, _ in old[3:]]
    d["model"]["vocab"] = {p: i for i, p in enumerate(pieces)}
    d["model"].update(byte_fallback=True, fuse_unk=fuse, unk_token="<unk>")
    for a in d["added_tokens"]:
        a["id"] = d["model"]["vocab"][a["content"]]
    return Tokenizer.from_str(json.dumps(d))


def piece_bpe(normalizer, pre_tokenizer=None, vocab=400):
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    if normalizer:
        t.normalizer = normalizer
    if pre_tokenizer:
        t.pre_tokenizer = pre_tokenizer
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False, max_token_length=12))
    return t


def unigram(byte_fallback, normalizer=None):
    t = Tokenizer(models.Unigram())
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre.Metaspace()
    t.train_from_iterator(corpus(), trainers.UnigramTrainer(vocab_size=350, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))
    t.decoder = decoders.Metaspace()
    if byte_fallback:
        d = json.loads(t.to_str())
        d["model"]["vocab"] += [["<0x%02X>" % b, 0.0] for b in range(256)]
        d["model"]["byte_fallback"] = True
        d["decoder"] = json.loads(decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]).__getstate__())
        t = Tokenizer.from_str(json.dumps(d))
    return t


LLAMA2_DECODER = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def huggingface(name):
    plain = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    if name == "gpt2":
        return byte_level(name, pre.ByteLevel(add_prefix_space=False))
    if name == "llama3":
        t = byte_level(name, pre.Sequence([split(LLAMA3), plain]), ignore_merges=True)
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])])
        return t
    if name == "qwen2":
        return byte_level(name, pre.Sequence([split(QWEN2), plain]), normalizers.NFC())
    if name == "smollm":
        return byte_level(name, pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]))
    if name == "deepseek-llm":
        return byte_level(name, pre.Sequence([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), pre.Digits(individual_digits=True), plain]))
    if name == "deepseek-v3":
        return byte_level(name, pre.Sequence([split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK3), plain]))
    if name == "gpt-4o":
        return byte_level(name, pre.Sequence([split(GPT4O, "removed", True), plain]))
    if name == "llama2":
        t = with_bytes(piece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])))
        t.decoder = LLAMA2_DECODER
        t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return t
    if name == "phi3":
        t = with_bytes(piece_bpe(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])))
        t.decoder = LLAMA2_DECODER
        t.add_special_tokens([AddedToken("<|im_end|>", rstrip=True, normalized=False), AddedToken("<mask>", lstrip=True, normalized=False)])
        t.add_tokens([AddedToken("<w>", single_word=True, normalized=False), AddedToken("<user>", rstrip=True, lstrip=True, normalized=False)])
        return t
    if name == "llama2-first":
        t = with_bytes(piece_bpe(None, pre.Metaspace(prepend_scheme="first", split=False)))
        t.decoder = LLAMA2_DECODER
        return t
    if name == "gemma":
        t = with_bytes(piece_bpe(normalizers.Replace(" ", "▁"), pre.Split(" ", "merged_with_previous")))
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        return t
    if name == "unigram":
        return unigram(False)
    if name == "unigram-bytes":
        return unigram(True, normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]))
    if name == "unigram-precompiled":
        return unigram(False, normalizers.Sequence([normalizers.Precompiled(precompiled()), normalizers.Replace(Regex(" {2,}"), " ")]))
    if name == "punctuation":
        return byte_level(name, pre.Sequence([pre.WhitespaceSplit(), pre.Punctuation(), pre.Digits(), plain]), normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]))
    if name == "punctuation-contiguous":
        return byte_level(name, pre.Sequence([pre.Punctuation("contiguous"), pre.Whitespace(), plain]), normalizers.Sequence([normalizers.NFKD(), normalizers.Strip()]))
    if name == "punctuation-removed":       # what is taken for punctuation, and for a digit, shows in what is left
        return byte_level(name, pre.Sequence([split(r"\d", "removed"), pre.Punctuation("removed"), plain]))
    raise KeyError(name)


HUGGINGFACE = ["gpt2", "llama3", "qwen2", "smollm", "deepseek-llm", "deepseek-v3", "gpt-4o", "llama2", "phi3", "llama2-first", "gemma", "unigram", "unigram-bytes", "unigram-precompiled",
               "punctuation", "punctuation-contiguous", "punctuation-removed"]


def precompiled():
    """The charsmap inside a sentencepiece model: field 2 of field 3."""
    return field(field(sentencepiece_model("unigram-nfkc"), 3), 2)


def field(message, number):
    """Field `number` of a protobuf message, bytes: the package protobuf is not among the requirements."""
    def varint(at):
        x = shift = 0
        while True:
            x |= (message[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if message[at - 1] < 128:
                return x, at
    at = 0
    while at < len(message):
        tag, at = varint(at)
        if tag & 7 == 2:
            n, at = varint(at)
            if tag >> 3 == number:
                return message[at:at + n]
            at += n
        else:
            at = varint(at)[1] if tag & 7 == 0 else at + {1: 8, 5: 4}[tag & 7]
    raise KeyError(number)


def huggingface_json(folder, name):
    path = os.path.join(folder, name + ".json")
    huggingface(name).save(path)
    return huggingface_file(name, path)


def huggingface_file(name, path):
    t = Tokenizer.from_file(path)
    t.no_truncation()
    t.no_padding()
    names = {i: p for p, i in t.get_vocab(with_added_tokens=True).items()}
    quirk = any(a.normalized for a in t.get_added_tokens_decoder().values()) # such tokens decode as their normalised text
    decode = (lambda ids: t.decoder.decode([names[i] for i in ids])) if quirk else lambda ids: t.decode(ids, skip_special_tokens=False)
    return "json " + name, path, lambda s: t.encode(s).ids, decode, ["--parse-special"]


# ---- tiktoken ----

def tiktoken_ranks(folder, name, ranks_path, pattern, pre_split):
    with open(ranks_path, "rb") as f:
        ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in f if line.strip())}
    e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return "tiktoken " + name, ranks_path, e.encode_ordinary, e.decode, ["--pre-split", pre_split]


def small_ranks(path):
    """Ranks of a small trained BPE."""
    t = huggingface("llama3")
    d = json.loads(t.to_str())["model"]
    chars = {c: b for b, c in zip(range(256), "")}
    keep = [b for b in range(256) if 0x21 <= b <= 0x7E or 0xA1 <= b <= 0xAC or b >= 0xAE]
    n = 0
    for b in range(256):
        if b in keep:
            chars[chr(b)] = b
        else:
            chars[chr(256 + n)] = b
            n += 1
    merged = [bytes(chars[c] for c in "".join(m)) for m in d["merges"]]
    tokens = [bytes([b]) for b in range(256)] + merged
    with open(path, "w") as f:
        for i, token in enumerate(dict.fromkeys(tokens)):
            f.write(base64.b64encode(token).decode() + f" {i}\n")
