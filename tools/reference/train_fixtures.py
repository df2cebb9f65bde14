#!/usr/bin/env python3
"""Reference training runs, by PyTorch, transformers and peft in f32: losses, gradient norms and the adapter after 20 steps.

    train_fixtures.py make OUT      writes OUT/model (a tiny Llama of random weights), OUT/rows.jsonl, OUT/adapter_init, OUT/golden.json
                                    and the adapters that training ends with: OUT/final-dense, OUT/final-nf4 (base quantised by
                                    bitsandbytes to NF4 with double quantisation, then dequantised to f32), OUT/final-sgd (dense)

The rules are those of docs/recipe.md: completion rows in file order, no packing; a step's loss is the sum over its trained tokens over their
number; lr i / w in warm-up. Needs torch, transformers, peft, bitsandbytes; not part of make check, which reads the committed results.
"""
import json
import math
import pathlib
import random
import shutil
import sys

import bitsandbytes.functional as bnb
import peft
import tokenizers
import torch
import transformers

STEPS, BATCH, ACCUMULATE, LENGTH = 20, 2, 2, 40
RUNS = {"dense": dict(lr=3e-3, warmup=4, schedule="cosine", weight_decay=0.01, clip=1.0),
        "nf4": dict(lr=2e-3, warmup=3, schedule="linear", weight_decay=0.0, clip=0.5),
        "sgd": dict(lr=2e-2, warmup=2, schedule="linear", weight_decay=0.0, clip=1.5)}


def make_rows():
    """Sums, reversals and colours; a completion that continues the prompt's last word; one row longer than LENGTH. 42 rows: the last
    step of an epoch has one pass."""
    rng = random.Random(5)
    rows = []
    for i in range(14):
        a, b = rng.randrange(40), rng.randrange(40)
        rows.append({"prompt": f"{a}+{b}=", "completion": str(a + b)})
        word = "".join(rng.choice("abcdefgh") for _ in range(rng.randrange(2, 7)))
        rows.append({"prompt": f"turn {word}:", "completion": " " + word[::-1]})
        rows.append({"prompt": f"the sky of day {i} is", "completion": rng.choice([" blue", " grey", " red"]) + " and " + rng.choice(["wide", "low"])})
    rows[7] = {"prompt": "the bl", "completion": "ue sky"}
    rows[16] = {"prompt": "the sky turned", "completion": " red and wide and low and blue and grey and red and wide and low again"}
    return rows


def make_tokenizer(rows):
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=64, special_tokens=["<s>", "</s>"], show_progress=False)
    t.train_from_iterator([r["prompt"] + r["completion"] for r in rows], trainer)
    t.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return t


def encode(t, row):
    """Ids and, for each, whether it is learnt."""
    e = t.encode(row["prompt"] + row["completion"])
    at = len(row["prompt"])
    ids = e.ids + [1]
    learnt = [i > 0 and begin >= at for i, (begin, _) in enumerate(e.offsets)] + [True]
    return ids[:LENGTH], learnt[:LENGTH]


def quantise(model):
    for name, m in model.named_modules():
        if isinstance(m, torch.nn.Linear) and name != "lm_head":
            # Flat: some bitsandbytes (0.50.2 on AVX-512) decode matrices of 32 columns wrongly; blocks run over the flat sequence anyway.
            packed, state = bnb.quantize_4bit(m.weight.data.reshape(-1), blocksize=64, quant_type="nf4", compress_statistics=True)
            m.weight.data = bnb.dequantize_4bit(packed, state).float().reshape(m.weight.shape)


def rate(o, i):
    w = o["warmup"]
    if i < w:
        return o["lr"] * i / w
    at = (i - w) / (STEPS - w)
    return o["lr"] * (0.5 * (1 + math.cos(math.pi * at)) if o["schedule"] == "cosine" else 1 - at)


def train(out, name, o, data):
    base = transformers.LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float32, attn_implementation="eager")
    if name == "nf4":
        quantise(base)
    model = peft.PeftModel.from_pretrained(base, out / "adapter_init", is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = (torch.optim.SGD(params, lr=o["lr"], momentum=0.9, foreach=False) if name == "sgd" else
                 torch.optim.AdamW(params, lr=o["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=o["weight_decay"], foreach=False))
    passes = [data[i:i + BATCH] for i in range(0, len(data), BATCH)]
    steps = [passes[i:i + ACCUMULATE] for i in range(0, len(passes), ACCUMULATE)]
    log = []
    model.train()
    for i in range(STEPS):
        step = steps[i % len(steps)]
        number = sum(sum(learnt) for p in step for _, learnt in p)
        total = 0.0
        optimizer.zero_grad()
        for rows in step:
            for ids, learnt in rows:    # one by one: no padding to think about
                logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
                targets = torch.tensor([t if l else -100 for t, l in zip(ids[1:], learnt[1:])])
                if (targets >= 0).any():
                    loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / number
                    loss.backward()
                    total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(params, o["clip"]).item()
        for g in optimizer.param_groups:
            g["lr"] = rate(o, i)
        optimizer.step()
        log.append({"step": i + 1, "loss": total, "grad_norm": norm, "lr": rate(o, i), "trained_tokens": number,
                    "tokens": sum(len(ids) for p in step for ids, _ in p)})
    save(model, out / f"final-{name}")
    return log


def save(model, folder):
    for c in model.peft_config.values():
        c.base_model_name_or_path = "tiny-llama"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    c = json.loads(path.read_text())
    c["target_modules"] = sorted(c["target_modules"])    # a set, whose order is another each time
    path.write_text(json.dumps(c, indent=2) + "\n")
    (folder / "adapter_model.safetensors").chmod(0o644)


def make(out):
    out = pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    (out / "model").mkdir(parents=True)
    rows = make_rows()
    (out / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    t = make_tokenizer(rows)
    torch.manual_seed(11)
    config = transformers.LlamaConfig(vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
                                      intermediate_size=40, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, initializer_range=0.15,
                                      rms_norm_eps=1e-5, tie_word_embeddings=False)
    base = transformers.LlamaForCausalLM(config)
    for p in base.parameters():
        p.data += 0.05 * torch.randn_like(p)
    base.save_pretrained(out / "model")
    (out / "model" / "generation_config.json").unlink(missing_ok=True)
    path = out / "model" / "config.json"
    c = json.loads(path.read_text())
    rope = c.pop("rope_parameters", None)
    if rope:
        c["rope_theta"] = rope["rope_theta"]
    path.write_text(json.dumps(c, indent=2) + "\n")
    t.save(str(out / "model" / "tokenizer.json"))
    (out / "model" / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")
    base = transformers.LlamaForCausalLM.from_pretrained(out / "model", dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    for n, p in model.named_parameters():     # B too, so that A has a gradient from the first step on
        if "lora_" in n:
            p.data = 0.1 * torch.randn_like(p)
    save(model, out / "adapter_init")
    data = [encode(t, r) for r in rows]
    golden = {name: {"recipe": o, "log": train(out, name, o, data)} for name, o in RUNS.items()}
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for name in RUNS:
        print(name, [round(s["loss"], 4) for s in golden[name]["log"]])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        sys.exit(__doc__)
