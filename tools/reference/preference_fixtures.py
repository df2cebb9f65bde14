#!/usr/bin/env python3
"""Reference training runs over preferences, by PyTorch, transformers and peft in f32, and the published formulas written out.

    preference_fixtures.py make MODEL OUT     MODEL: tests/fixtures/train_golden (its model and adapter_init are the start); writes OUT/pairs.jsonl,
                                              OUT/kto.jsonl, OUT/golden.json and the adapters that training ends with, OUT/final-NAME

Completion rows in file order, no packing; a step's loss is the mean over its pairs or answers; the reference model is the base with the adapter
off (peft's disable_adapter); kto pairs each prompt with the answer of the next row. Formulas: dpo Rafailov et al. 2023, with label smoothing as
in Mitchell 2023; ipo Azar et al. 2023 with log-probabilities divided by their tokens; hinge Zhao et al. 2023; rpo Pang et al. 2024; orpo Hong et
al. 2024; simpo Meng et al. 2024; kto Ethayarajh et al. 2024. Needs torch, transformers, peft, bitsandbytes.
"""
import json
import pathlib
import random
import shutil
import sys

import peft
import tokenizers
import torch
import torch.nn.functional as F
import transformers

import train_fixtures as sft

STEPS, BATCH, ACCUMULATE = sft.STEPS, 2, 2
BASE = dict(objective="dpo", beta=0.3, dpo_loss="sigmoid", label_smoothing=0.0, rpo_alpha=0.0, gamma=0.5, desirable_weight=1.0, undesirable_weight=1.0,
            lr=3e-3, warmup=3, schedule="linear", weight_decay=0.0, clip=1.0)
RUNS = {
    "dpo": BASE,
    "dpo-nf4": dict(BASE, weight_decay=0.01),
    "ipo": dict(BASE, dpo_loss="ipo", beta=0.4),
    "hinge": dict(BASE, dpo_loss="hinge", beta=0.5, lr=3e-3),
    "cdpo-rpo": dict(BASE, label_smoothing=0.1, rpo_alpha=0.5),
    "orpo": dict(BASE, objective="orpo", beta=0.2),
    "simpo": dict(BASE, objective="simpo", beta=2.0, label_smoothing=0.05),
    "kto": dict(BASE, objective="kto", desirable_weight=1.3, undesirable_weight=0.8),
}


MAX_LENGTH = 40  # of the recipes in tests/test_train_golden.c

def make_rows():
    rng = random.Random(9)
    pairs = []
    for i in range(22):
        a, b = rng.randrange(40), rng.randrange(40)
        word = "".join(rng.choice("abcdefgh") for _ in range(rng.randrange(2, 7)))
        pairs.append([{"prompt": f"{a}+{b}=", "chosen": str(a + b), "rejected": str(a + b + rng.randrange(1, 30))},
                      {"prompt": f"turn {word}:", "chosen": " " + word[::-1], "rejected": " " + word + "a" * (i % 3)},
                      {"prompt": f"the sky of day {i} is", "chosen": " blue and wide", "rejected": " red"}][i % 3])
    answers = [{"prompt": p["prompt"], "completion": p["chosen" if i % 2 else "rejected"], "label": i % 2 == 1} for i, p in enumerate(pairs)]
    return pairs, answers


def encode(t, prompt, answer):
    return sft.encode(t, {"prompt": prompt, "completion": answer})


def logp(model, row):
    """The sum of log-probabilities of the answer's tokens, and their number."""
    ids, learnt = row
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
    each = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    mask = torch.tensor(learnt[1:])
    return each[mask].sum(), int(mask.sum())


def reference(model, row):
    with torch.no_grad(), model.disable_adapter():
        return logp(model, row)[0]


def pair_loss(o, model, w, l):
    (pw, nw), (pl, nl) = logp(model, w), logp(model, l)
    e, beta = o["label_smoothing"], o["beta"]
    if o["objective"] == "orpo":
        aw, al = pw / nw, pl / nl
        odds = (aw - al) - (torch.log1p(-torch.exp(aw)) - torch.log1p(-torch.exp(al)))
        return -aw - beta * F.logsigmoid(odds)
    if o["objective"] == "simpo":
        x = beta * (pw / nw - pl / nl) - o["gamma"]
        return -(1 - e) * F.logsigmoid(x) - e * F.logsigmoid(-x)
    rw, rl = reference(model, w), reference(model, l)
    if o["dpo_loss"] == "ipo":
        return ((pw - rw) / nw - (pl - rl) / nl - 1 / (2 * beta)) ** 2
    h = beta * ((pw - rw) - (pl - rl))
    loss = torch.relu(1 - h) if o["dpo_loss"] == "hinge" else -(1 - e) * F.logsigmoid(h) - e * F.logsigmoid(-h)
    return loss - o["rpo_alpha"] * pw / nw


def moved(model, rows):
    """kto's z over the rows of a step; rows: (prompt and answer, label, prompt and the next row's answer)."""
    with torch.no_grad():
        ratios = [(logp(model, m)[0] - reference(model, m)).item() for _, _, m in rows]
    return max(0.0, sum(ratios) / len(ratios))


def kto_loss(o, model, row, label, z):
    ratio = logp(model, row)[0] - reference(model, row)
    if label:
        return o["desirable_weight"] * (1 - torch.sigmoid(o["beta"] * (ratio - z)))
    return o["undesirable_weight"] * (1 - torch.sigmoid(o["beta"] * (z - ratio)))


def train(start, out, name, o, data):
    base = transformers.LlamaForCausalLM.from_pretrained(start / "model", dtype=torch.float32, attn_implementation="eager")
    if name.endswith("nf4"):
        sft.quantise(base)
    model = peft.PeftModel.from_pretrained(base, start / "adapter_init", is_trainable=True)
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=o["lr"], betas=(0.9, 0.999), eps=1e-8, weight_decay=o["weight_decay"], foreach=False)
    passes = [data[i:i + BATCH] for i in range(0, len(data), BATCH)]
    steps = [sum(passes[i:i + ACCUMULATE], []) for i in range(0, len(passes), ACCUMULATE)]
    log = []
    model.train()
    for i in range(STEPS):
        step = steps[i % len(steps)]
        total = 0.0
        optimizer.zero_grad()
        z = moved(model, step) if o["objective"] == "kto" else 0
        for row in step:
            one = kto_loss(o, model, row[0], row[1], z) if o["objective"] == "kto" else pair_loss(o, model, *row)
            loss = one / len(step)
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(params, o["clip"]).item()
        for g in optimizer.param_groups:
            g["lr"] = sft.rate(o, i)
        optimizer.step()
        log.append({"step": i + 1, "loss": total, "grad_norm": norm, "lr": sft.rate(o, i)})
    sft.save(model, out / f"final-{name}")
    return log


def make(start, out):
    start, out = pathlib.Path(start), pathlib.Path(out)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pairs, answers = make_rows()
    (out / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))
    (out / "kto.jsonl").write_text("".join(json.dumps(r) + "\n" for r in answers))
    t = tokenizers.Tokenizer.from_file(str(start / "model" / "tokenizer.json"))
    pair_data = [(encode(t, r["prompt"], r["chosen"]), encode(t, r["prompt"], r["rejected"])) for r in pairs]
    kto_data = []
    rows = [encode(t, r["prompt"], r["completion"]) for r in answers]
    for i, r in enumerate(answers):
        (ids, learnt), (other, other_learnt) = rows[i], rows[(i + 1) % len(rows)]
        prompt, first = learnt.index(True), other_learnt.index(True)
        mixed = (ids[:prompt] + other[first:], [False] * prompt + other_learnt[first:])
        kto_data.append((rows[i], r["label"], (mixed[0][:MAX_LENGTH], mixed[1][:MAX_LENGTH])))
    golden = {name: {"recipe": o, "log": train(start, out, name, o, kto_data if o["objective"] == "kto" else pair_data)} for name, o in RUNS.items()}
    (out / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")
    for name in RUNS:
        print(name, [round(s["loss"], 4) for s in golden[name]["log"]])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) == 4 and sys.argv[1] == "make":
        make(sys.argv[2], sys.argv[3])
    else:
        sys.exit(__doc__)
