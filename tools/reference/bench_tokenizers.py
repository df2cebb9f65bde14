"""Speed of pw tokenize beside the package tokenizers, one thread each, on real text; the table of docs/bench.md.

Run from the root, after make check-reference has built its environment:
    PYTHONPATH=tools/reference build/reference/bin/python tools/reference/bench_tokenizers.py [--mb 10] [--only WORD]
Text: wiki.test.raw and tinyshakespeare.txt of shared/data/text, repeated. Seconds of processor time, so that other programs disturb little: of the child process
for pw, its start taken off, reading and writing JSON included; of encode_batch, encode_batch_fast and encode for the package, the fastest of the former two by
lines. The ids of all lines are compared. Exits with 1 when a ratio is below 1 or ids differ.
"""
import argparse
import base64
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
from tokenizers import Tokenizer, decoders, models as model, normalizers, pre_tokenizers as pre  # noqa: E402
from transformers.convert_slow_tokenizer import bytes_to_unicode  # noqa: E402

import models  # noqa: E402
from check_tokenizers import PW, SHARED  # noqa: E402

DATA = os.path.join(SHARED, "data")


def qwen2(path):
    """The ranks of Qwen as a tokenizer.json: a merge for each way to halve a token, in the order of ranks."""
    with open(os.path.join(DATA, "tokenizers/qwen.tiktoken"), "rb") as f:
        ranks = {base64.b64decode(a): int(b) for a, b in (line.split() for line in f if line.strip())}
    table = bytes_to_unicode()
    merges = sorted((r, ranks[t[:i]], ranks[t[i:]], t[:i], t[i:]) for t, r in ranks.items() for i in range(1, len(t)) if t[:i] in ranks and t[i:] in ranks)
    name = lambda b: "".join(table[x] for x in b)   # noqa: E731
    t = Tokenizer(model.BPE({name(k): v for k, v in ranks.items()}, [(name(a), name(b)) for *_, a, b in merges]))
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre.Sequence([models.split(models.QWEN2), pre.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.save(path)


def of_child(*args):
    """Processor time and output of pw tokenize."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run([PW, "tokenize", *args], stdout=subprocess.PIPE, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, out


def timed(work):
    began = time.process_time()
    out = work()
    return time.process_time() - began, out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--mb", type=float, default=10)
    a.add_argument("--only", default="")
    a = a.parse_args()
    text = "".join(open(os.path.join(DATA, "text", n), encoding="utf-8").read() for n in ("wiki.test.raw", "tinyshakespeare.txt"))
    text = (text * (1 + int(a.mb * 1e6 / len(text.encode()))))[:int(a.mb * 1e6)]
    mb, lines, bad = len(text.encode()) / 1e6, text.split("\n"), 0
    with tempfile.TemporaryDirectory() as at:
        for name, content in (("lines", "\n".join(json.dumps(x) for x in lines)), ("text", text), ("no-lines", '""'), ("no-text", "")):
            open(os.path.join(at, name), "w", encoding="utf-8").write(content)
        file = lambda n: os.path.join(at, n)   # noqa: E731
        kinds = [("byte-level BPE, SmolLM2", os.path.join(DATA, "tokenizers/smollm2-hf/tokenizer.json")), ("byte-level BPE, Qwen2", file("qwen2.json")),
                 ("SentencePiece-style BPE, 2,048", os.path.join(DATA, "models/tinystories-656k/tokenizer.json")), ("Unigram, 350", file("unigram.json"))]
        qwen2(file("qwen2.json"))
        models.huggingface("unigram").save(file("unigram.json"))
        for name, path in kinds:
            if a.only not in name:
                continue
            t = Tokenizer.from_file(path)
            t.no_truncation()
            t.no_padding()
            start = min(of_child(path, file("no-lines"), "--lines")[0] for _ in range(3))
            took, out = of_child(path, file("lines"), "--lines")
            ours, whole = took - start, of_child(path, file("text"))[0] - start
            plain, want = timed(lambda: [e.ids for e in t.encode_batch(lines)])
            fast, one = timed(lambda: t.encode_batch_fast(lines))[0], timed(lambda: t.encode(text))[0]
            theirs = min(plain, fast)
            same = [json.loads(x) for x in out.decode().split("\n")[:-1]] == want
            bad += not same or theirs < ours or one < whole
            print("| %s | %.2f | %.2f | %.1f | %.2f | %.2f | %.1f |%s" % (name, mb / ours, mb / theirs, theirs / ours, mb / whole, mb / one, one / whole, "" if same else " ids differ"), flush=True)
    return bad > 0


if __name__ == "__main__":
    sys.exit(main())
