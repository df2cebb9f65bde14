"""Live: pw against tokenizers, sentencepiece and tiktoken on random strings, ids and round trips. Prints one line a kind; exits 1
when anything differs. Run by tools/reference/run; arguments: --seed N, --strings N (per kind), --only WORD."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import models
import text

PW = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "pw")
SHARED = os.environ.get("PW_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "shared"))


def pw(command, path, options, rows):
    done = subprocess.run([PW, command, path, "-", "--lines"] + options, input="\n".join(json.dumps(x) for x in rows).encode(), stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"pw {command} {path} failed")
    out = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert len(out) == len(rows), (len(out), len(rows))
    return out


def compare(kind, strings):
    name, path, encode, decode, options = kind
    want = [encode(s) for s in strings]
    got = pw("tokenize", path, options, strings)
    back = pw("detokenize", path, ["--no-special"] + [o for o in options if o != "--parse-special"], want)
    texts = [decode(ids) for ids in want]
    ids_differ = [i for i, (a, b) in enumerate(zip(want, got)) if a != b]
    texts_differ = [i for i, (a, b) in enumerate(zip(texts, back)) if a != b]
    print(f"{name:34} {len(strings):6} strings {sum(map(len, want)):8} tokens: ids differ in {len(ids_differ)}, texts in {len(texts_differ)}")
    for i in ids_differ[:2]:
        at = next((k for k, (a, b) in enumerate(zip(want[i], got[i])) if a != b), min(len(want[i]), len(got[i])))
        print(f"    {strings[i]!r}\n      first at token {at}: package {want[i][at:at + 6]}, pw {got[i][at:at + 6]}")
    for i in texts_differ[:2]:
        print(f"    decoding {want[i]}: package {texts[i]!r}, pw {back[i]!r}")
    return len(ids_differ) + len(texts_differ)


def kinds(folder):
    for name in models.SENTENCEPIECE:
        yield "sentencepiece " + name, lambda n=name: models.sentencepiece(folder, n)
    for name in models.HUGGINGFACE:
        yield "json " + name, lambda n=name: models.huggingface_json(folder, n)
    ranks = os.path.join(folder, "small.tiktoken")
    models.small_ranks(ranks)
    qwen = os.path.join(SHARED, "data/tokenizers/qwen.tiktoken")
    for path, label in ((ranks, "small"), (qwen, "qwen")):
        for pattern, split in ((models.CL100K, "cl100k_base"), (models.GPT4O, "o200k_base"), (models.GPT2, "gpt-2"), (models.LLAMA3, "llama-bpe")):
            if os.path.exists(path) and (label == "small" or split == "llama-bpe"):
                yield f"tiktoken {label} {split}", lambda p=path, r=pattern, s=split, la=label: models.tiktoken_ranks(folder, f"{la} {s}", p, r, s)
    for name in ("tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"):
        path = os.path.join(SHARED, "data/tokenizers/mistral", name)
        if os.path.exists(path):
            yield "sentencepiece " + name, lambda n=name, p=path: models.sentencepiece_file(n, p)
    for name in ("tokenizers/smollm2-hf", "models/tinystories-656k"):
        path = os.path.join(SHARED, "data", name, "tokenizer.json")
        if os.path.exists(path):
            yield "json " + name, lambda n=name, p=path: models.huggingface_file(n, p)


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, default=int(time.time()))
    a.add_argument("--strings", type=int, default=20000)
    a.add_argument("--only", default="")
    a.add_argument("--no-sweep", action="store_true", help="without the strings that hold every code point")
    a = a.parse_args()
    print(f"tokenizers: seed {a.seed}, {a.strings} strings a kind")
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, make) in enumerate(kinds(folder)):
            if a.only in name:
                differ += compare(make(), text.strings(a.seed + i, a.strings) + ([] if a.no_sweep else text.sweep()))
    print(f"tokenizers: {differ} differences")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
