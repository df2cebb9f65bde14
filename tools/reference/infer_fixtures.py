#!/usr/bin/env python3
"""Reference logits of the inference path, from PyTorch and transformers in f32.

    infer_fixtures.py make OUT            writes two tiny models of random weights with the logits they give: OUT/llama-untied (grouped
                                          heads, untied, llama3 rope scaling), OUT/llama-tied (tied, biases, bf16)
    infer_fixtures.py record MODEL OUT.json   ids of a text and their log-probabilities by transformers
    infer_fixtures.py compare MODEL PW    scores a text with MODEL in transformers and with `PW score`; fails above 2e-4

Needs torch, transformers, numpy; not part of make check, which reads the committed fixtures instead.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers

IDS = [1, 17, 4, 33, 60, 9, 9, 2, 41, 28, 5, 63, 11, 30, 7, 52]
TEXT = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big dog."
BOUND = 2e-4


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float()


def make(out):
    common = dict(vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=40,
                  max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.15, rms_norm_eps=1e-5)
    scaling = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
    kinds = {"llama-untied": (dict(tie_word_embeddings=False, rope_parameters=scaling), torch.float32),
             "llama-tied": (dict(tie_word_embeddings=True, attention_bias=True, head_dim=8), torch.bfloat16)}
    for name, (extra, dtype) in kinds.items():
        torch.manual_seed(7)
        config = transformers.LlamaConfig(**common, **extra)
        model = transformers.LlamaForCausalLM(config)
        for p in model.parameters():        # norms and biases too, so that leaving one out shows
            p.data = (p.data + 0.1 * torch.randn_like(p)).to(dtype)
        folder = pathlib.Path(out, name)
        model.to(dtype).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        if "rope_parameters" in config:     # the keys of the checkpoints that are about
            rope = config.pop("rope_parameters")
            config["rope_theta"] = rope.pop("rope_theta")
            config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "generation_config.json").unlink(missing_ok=True)
        # Loaded again: casting a model to bf16 rounds its rotary frequencies too, and they would stay rounded.
        rows = logits_of(transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), IDS)
        (folder / "expected.json").write_text(json.dumps({"ids": IDS, "logits": [[float(f"{x:.7g}") for x in row] for row in rows.tolist()]}) + "\n")


def reference(path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    ids = [tokenizer.bos_token_id] + tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    return ids, torch.log_softmax(logits_of(model, ids), -1)


def record(path, out):
    ids, want = reference(path)
    pathlib.Path(out).write_text(json.dumps({"ids": ids, "logprobs": [None] + [want[i - 1, ids[i]].item() for i in range(1, len(ids))]}) + "\n")


def compare(path, pw):
    ids, want = reference(path)
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "ids.json").write_text(json.dumps(ids))
        got = json.loads(subprocess.run([pw, "score", path, "--ids", f"{folder}/ids.json", "--json", "--logits", f"{folder}/logits.npy"],
                                        check=True, capture_output=True).stdout)
        logits = numpy.load(f"{folder}/logits.npy")
    worst = max(abs(got["logprobs"][i] - want[i - 1, ids[i]].item()) for i in range(1, len(ids)))
    everywhere = (torch.log_softmax(torch.from_numpy(logits), -1) - want).abs().max().item()
    print(f"{len(ids)} tokens: largest |difference| of log-probability {worst:.3g}, over the whole vocabulary {everywhere:.3g} (bound {BOUND})")
    return 0 if worst <= BOUND and everywhere <= BOUND else 1


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    elif len(sys.argv) == 4 and sys.argv[1] == "record":
        record(sys.argv[2], sys.argv[3])
    elif len(sys.argv) == 4 and sys.argv[1] == "compare":
        sys.exit(compare(sys.argv[2], sys.argv[3]))
    else:
        sys.exit(__doc__)
