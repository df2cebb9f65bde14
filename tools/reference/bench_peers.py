#!/usr/bin/env python3
"""make bench-peers: training speed, memory and start-up of pw beside PyTorch + transformers + peft, in one run on one machine.

    bench_peers.py [--data DIR] [--only WORD]... [--rounds N] [--steps N] [--threads N] [-o FILE.md]

Both sides get the same model folder (a Llama shape of random bf16 weights), the same rows with the same masks, LoRA of the same rank on all linears,
AdamW, the same rows a step in the same order, no checkpointing, the same number of threads. They run by turns, never at once; of the steps after the
first the fastest counts, so that what else the machine did counts least; beside it stands the processor time of that step, which other
programs disturb less. Rows are cut to one length ("unpadded") or have their own ("chat": openbookqa + pubmedqa + a ShareGPT file under DIR, prompts masked); the peer's
batches are padded to their longest row, as DataCollatorForSeq2Seq does in Trainer and TRL, and pw's are not, since it never pads. The number of tokens
and of trained tokens of every step must be the same on both sides, or the run fails.
Needs torch, transformers, peft, bitsandbytes (tools/bench_peers finds or installs them)."""
import argparse
import json
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time

SHAPES = {"100M": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=2048),
          "500M": dict(hidden_size=1280, num_hidden_layers=24, num_attention_heads=20, intermediate_size=3456)}
ROWS = {"unpadded": {"100M": (2, 512), "500M": (1, 512)}, "chat": {"100M": (8, 1024), "500M": (4, 1024)}}  # rows a step, longest row
RANK, ALPHA, WORDS = 16, 32, 32000
# name, rows, base, compute: what pw does; the peer's ways of the same, of which the faster counts
CASES = [("f32, unpadded rows", "unpadded", "none", "f32", ["f32"], 1.25),
         ("bf16, unpadded rows", "unpadded", "none", "bf16", ["bf16", "autocast"], 1.8),
         ("f32, chat rows", "chat", "none", "f32", ["f32"], 2.0),
         ("bf16, chat rows", "chat", "none", "bf16", ["bf16", "autocast"], 2.0),
         ("NF4 base, f32, unpadded rows", "unpadded", "nf4", "f32", ["nf4-f32"], 3.0),
         ("NF4 base, bf16, unpadded rows", "unpadded", "nf4", "bf16", ["nf4-bf16"], "")]
TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}"
            "{% else %}{{ m['content'] }}<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def peak_bytes(pid="self"):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- what both sides are given ----

def chat_rows(data, n):
    """n conversations, a third from each set, shuffled with a fixed seed."""
    finetune = pathlib.Path(data) / "finetune"
    pair = lambda q, a: {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
    books = [pair(r["instruction"], r["output"]) for r in json.load(open(finetune / "openbookqa/train.json"))]
    papers = [pair(r["QUESTION"] + "\n\n" + "\n".join(r["CONTEXTS"]), r["LONG_ANSWER"] + "\n\n" + r["final_decision"])
              for r in json.load(open(finetune / "pubmedqa/ori_pqal.json")).values()]
    role = {"human": "user", "gpt": "assistant"}
    talks = [{"messages": [{"role": role[t["from"]], "content": t["value"]} for t in r["conversations"]]}
             for r in json.load(open(finetune / "sharegpt_form/dummy_conversation.json"))]
    rng = random.Random(11)
    rows = [rng.choice(kind) for kind in (books, papers, talks) for _ in range((n + 2) // 3)]
    rng.shuffle(rows)
    return rows[:n]


def long_rows(data, n):
    """n rows that are longer than any length they are cut to; all of them learnt."""
    text = (pathlib.Path(data) / "text/wiki.test.raw").read_text()
    size = 6000
    return [{"text": text[i * size:(i + 1) * size]} for i in range(n)]


def write_rows(rows, path):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def make_tokenizer(where, data):
    import tokenizers
    import transformers
    t = tokenizers.Tokenizer(tokenizers.models.BPE())
    t.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = tokenizers.decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=WORDS, special_tokens=special, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    texts = [m["content"] for r in chat_rows(data, 3000) for m in r["messages"]]
    t.train_from_iterator(texts + (pathlib.Path(data) / "text/wiki.test.raw").read_text().splitlines(), trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=t, pad_token="<|pad|>", eos_token="<|im_end|>", chat_template=TEMPLATE)
    fast.save_pretrained(where)


def make_model(where, shape):
    import torch
    import transformers
    torch.manual_seed(3)
    config = transformers.LlamaConfig(vocab_size=WORDS, max_position_embeddings=2048, tie_word_embeddings=True, rms_norm_eps=1e-5, bos_token_id=None, eos_token_id=2,
                                      pad_token_id=0, num_key_value_heads=shape["num_attention_heads"], **shape)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(where)


# ---- the two sides: {"peak", "start", "steps": [{"seconds", "cpu", "tokens", "trained"}]} ----

def recipe(c):
    rows, base, compute = c["rows"], c["base"], c["compute"]
    return f"""model: {c["model"]}
quant: {{type: {base}, double_quant: {"true" if base == "nf4" else "false"}}}
adapter: {{r: {RANK}, alpha: {ALPHA}, targets: all-linear}}
data: {{train: {c["data"]}, format: {"messages" if rows == "chat" else "text"}, max_length: {c["length"]}, packing: false, shuffle: false}}
train: {{objective: {"sft" if rows == "chat" else "pretrain"}, steps: {c["steps"]}, batch_size: {c["batch"]}, accumulate: 1, lr: 1e-4, schedule: constant, warmup: 0,
  checkpointing: false, save_every: 0, eval_every: 0, spike: 0{", compute: bf16" if compute == "bf16" else ""}}}
output: {c["out"]}
"""


def run_pw(c):
    shutil.rmtree(c["out"], ignore_errors=True)
    path = pathlib.Path(c["work"]) / "recipe.yaml"
    path.write_text(recipe(c))
    began = time.time()
    p = subprocess.Popen([c["pw"], "train", str(path), "--quiet", "--json", "--threads", str(c["threads"])], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, marks, peak, last = pathlib.Path(c["out"]) / "log.jsonl", [], 0, 0.0
    while p.poll() is None:
        try:
            peak, last = max(peak, peak_bytes(p.pid)), cpu_seconds(p.pid)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            pass
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        for line in lines[len(marks):]:
            if line.endswith("\n"):
                marks.append((time.time(), last, json.loads(line)))
        time.sleep(0.03)  # seldom: both processors are pw's
    out, err = p.communicate()
    if p.returncode != 0:
        sys.exit(f"bench_peers: pw failed: {err[-2000:]}")
    steps, cpu = [], 0.0
    for at, used, line in marks:
        steps.append(dict(seconds=line["tokens"] / line["tokens_per_s"], cpu=used - cpu, tokens=line["tokens"], trained=line["trained_tokens"]))
        cpu = used
    if len(steps) != c["steps"]:
        sys.exit(f"bench_peers: pw logged {len(steps)} steps of {c['steps']}")
    result = json.loads(out.splitlines()[-1])
    return dict(peak=result.get("peak_bytes", peak), level=result["level"], start=marks[0][0] - began - steps[0]["seconds"], steps=steps)


def run_peer(c, way):
    # The peer writes what it measured as its last line; the modules' import counts as its start, as it does for a user.
    p = subprocess.run([sys.executable, __file__, "--peer", json.dumps(dict(c, way=way, began=time.time()))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if p.returncode != 0:
        sys.exit(f"bench_peers: the peer failed ({way}): {p.stderr[-3000:]}")
    return json.loads(p.stdout.splitlines()[-1])


def peer_rows(c, tokenizer):
    rows = [json.loads(line) for line in open(c["data"])]
    made = []
    for r in rows:
        if c["rows"] == "chat":
            e = tokenizer.apply_chat_template(r["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            ids, learnt = e["input_ids"], e["assistant_masks"]
        else:
            ids = tokenizer(r["text"], add_special_tokens=False)["input_ids"]
            learnt = [1] * len(ids)
        ids, learnt = ids[:c["length"]], learnt[:c["length"]]
        made.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [t if m else -100 for t, m in zip(ids, learnt)]})
    return made


def peer(c):
    import torch
    import transformers
    import peft
    torch.set_num_threads(c["threads"])
    transformers.set_seed(1)
    way = c["way"]
    dtype = torch.bfloat16 if way in ("bf16", "nf4-bf16") else torch.float32
    quant = None
    if way.startswith("nf4"):
        quant = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(c["model"])
    model = transformers.AutoModelForCausalLM.from_pretrained(c["model"], dtype=dtype, quantization_config=quant, attn_implementation="sdpa")
    if quant:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.config.use_cache = False
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    collate = transformers.DataCollatorForSeq2Seq(tokenizer, padding=True, return_tensors="pt")
    rows = peer_rows(c, tokenizer)
    start, steps = time.time() - c["began"], []
    for s in range(c["steps"]):
        part = rows[s * c["batch"]:(s + 1) * c["batch"]]
        at, cpu = time.time(), time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way in ("autocast", "nf4-bf16")):
            loss = model(**collate(part)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss = loss.item()
        steps.append(dict(seconds=time.time() - at, cpu=time.process_time() - cpu, loss=loss, tokens=sum(len(r["input_ids"]) for r in part),
                          trained=sum(l != -100 for r in part for l in r["labels"][1:])))
    print(json.dumps(dict(peak=peak_bytes(), start=start, steps=steps)))


# ---- measuring and the table ----

def best(runs):
    """Of several runs of the same steps: each step's fastest, of all but the first; tokens a second over them."""
    n = len(runs[0]["steps"])
    seconds = sum(min(r["steps"][i]["seconds"] for r in runs) for i in range(1, n))
    cpu = sum(min(r["steps"][i]["cpu"] for r in runs) for i in range(1, n))
    tokens = sum(runs[0]["steps"][i]["tokens"] for i in range(1, n))
    return dict(rate=tokens / seconds, cpu_rate=tokens / cpu if cpu > 0 else float("nan"), peak=max(r["peak"] for r in runs), start=min(r["start"] for r in runs))


def same_work(ours, theirs):
    for i, (a, b) in enumerate(zip(ours["steps"], theirs["steps"])):
        if (a["tokens"], a["trained"]) != (b["tokens"], b["trained"]):
            sys.exit(f"bench_peers: step {i + 1} is not the same work: pw {a['tokens']} tokens, {a['trained']} trained; peer {b['tokens']}, {b['trained']}")


def limits(pw, threads):
    text = subprocess.run([pw, "bench", "synthetic:100m", "--prompt", "8", "--gen", "1", "--train", "0", "--repeat", "1", "--json", "--quiet", "--threads", str(threads)],
                          stdout=subprocess.PIPE, text=True, check=True).stdout
    r = json.loads(text)
    import torch
    torch.set_num_threads(threads)
    a, b, best_rate = torch.full((2048, 2048), 0.5), torch.full((2048, 2048), 0.5), 0.0
    for dtype in (torch.float32, torch.bfloat16):
        x, y, best_rate = a.to(dtype), b.to(dtype), 0.0
        for _ in range(6):
            at = time.time()
            torch.mm(x, y)
            best_rate = max(best_rate, 2 * 2048 ** 3 / (time.time() - at))
        r["torch_" + str(dtype).split(".")[1]] = best_rate
    big, copy = torch.zeros(64 << 20), torch.empty(64 << 20)
    copy.copy_(big)
    r["copy"] = 0.0
    for _ in range(4):
        at = time.time()
        copy.copy_(big)
        r["copy"] = max(r["copy"], 2 * 4 * (64 << 20) / (time.time() - at))
    return r


def flop_of_token(shape, rows, length):
    """4 a weight of linears and head (forward, gradient of the input), 12 H d a key; chat rows: the mean over their own lengths is not known here."""
    s = SHAPES[shape]
    d, f, n = s["hidden_size"], s["intermediate_size"], s["num_hidden_layers"]
    return 4 * (n * (4 * d * d + 3 * d * f) + d * WORDS) + 12 * d * n * length / 2


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--peer")
    a.add_argument("--pw", default="./pw")
    a.add_argument("--data", default="../shared/data")
    a.add_argument("--only", action="append", default=[])
    a.add_argument("--rounds", type=int, default=2)
    a.add_argument("--steps", type=int, default=4)
    a.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    a.add_argument("--work", help="folder for models and rows; kept, and used again when it holds them")
    a.add_argument("-o", "--output")
    o = a.parse_args()
    if o.peer:
        return peer(json.loads(o.peer))
    pw = str(pathlib.Path(o.pw).resolve())
    kept = o.work is not None
    work = pathlib.Path(o.work or tempfile.mkdtemp(prefix="pw-peers-"))
    work.mkdir(parents=True, exist_ok=True)
    os.environ["PW_CACHE"] = str(work / "cache")
    try:
        measure(o, pw, work)
    finally:
        if not kept:
            shutil.rmtree(work)


def prepare(o, work, shape):
    model = work / shape
    if not (model / "tokenizer.json").exists():
        make_model(model, SHAPES[shape])
        make_tokenizer(model, o.data)
    for rows, sizes in ROWS.items():
        batch, length = sizes[shape]
        n = batch * o.steps
        write_rows(chat_rows(o.data, n) if rows == "chat" else long_rows(o.data, n), work / f"{rows}-{shape}.jsonl")
    return str(model)


def measure(o, pw, work):
    import bitsandbytes
    import peft
    import torch
    import transformers
    lines, levels = [], set()

    def say(line=""):
        print(line, flush=True)
        lines.append(line)

    most = limits(pw, o.threads)
    version = subprocess.run([pw, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    model = next((l.split(":", 1)[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    say(f"Machine: {model}, {o.threads} threads of {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start. {version}; torch "
        f"{torch.__version__} ({torch.backends.cpu.get_cpu_capability()}), transformers {transformers.__version__}, peft {peft.__version__}, bitsandbytes {bitsandbytes.__version__}, Python "
        f"{platform.python_version()}.")
    say(f"Limits: f32 matrix product 2048³ of pw {most['limits']['gemm_flops'] / 1e9:.0f} GFLOP/s, of torch {most['torch_float32'] / 1e9:.0f} (bf16 {most['torch_bfloat16'] / 1e9:.0f}); "
        f"reading {most['limits']['read_bytes_per_s'] / 1e9:.1f} GB/s, copying {most['copy'] / 1e9:.1f} GB/s.")
    say()
    say("| shape | case | pw tok/s | share of product | peer tok/s | peer's way | share | ratio | by processor time | goal | pw peak MiB | peer peak MiB | ratio | goal | pw start s | peer start s |")
    say("|---|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    offers_bf16 = "`train.compute`" in subprocess.run([pw, "recipe", "docs"], stdout=subprocess.PIPE, text=True).stdout
    for shape in SHAPES:
        for name, rows, base, compute, ways, goal in CASES:
            title = f"{shape} {name}"
            if any(word not in title for word in o.only) or (compute == "bf16" and not offers_bf16):
                continue
            batch, length = ROWS[rows][shape]
            c = dict(pw=pw, work=str(work), out=str(work / "run"), model=prepare(o, work, shape), data=str(work / f"{rows}-{shape}.jsonl"), rows=rows, base=base, compute=compute,
                     batch=batch, length=length, steps=o.steps, threads=o.threads)
            ours, theirs = [], {way: [] for way in ways}
            for _ in range(o.rounds):
                ours.append(run_pw(c))
                for way in ways:
                    theirs[way].append(run_peer(c, way))
                    same_work(ours[0], theirs[way][-1])
            levels.add(f"{compute} {ours[0]['level']}")
            us = best(ours)
            them = {way: best(runs) for way, runs in theirs.items()}
            way = max(them, key=lambda w: them[w]["rate"])
            product = most["torch_bfloat16"] if compute == "bf16" else most["limits"]["gemm_flops"]
            share = lambda rate: f"{100 * rate * flop_of_token(shape, rows, length) / product:.0f} %" if rows == "unpadded" else ""
            p = them[way]
            say(f"| {shape} | {name} | {us['rate']:.0f} | {share(us['rate'])} | {p['rate']:.0f} | {way} | {share(p['rate'])} | {us['rate'] / p['rate']:.2f} | {us['cpu_rate'] / p['cpu_rate']:.2f} | {goal} | "
                f"{us['peak'] / 2**20:.0f} | {p['peak'] / 2**20:.0f} | {us['peak'] / p['peak']:.2f} | 0.5 | {us['start']:.2f} | {p['start']:.2f} |")
    say()
    say(f"Load average at the end: {os.getloadavg()[0]:.1f}. Fastest of {o.rounds} runs of each step but the first; LoRA r = {RANK} on all linears, AdamW, no checkpointing; base weights in bf16 in the file; pw trained at {', '.join(sorted(levels))}. Product: "
        f"of pw in f32, of torch in bf16.")
    if o.output:
        pathlib.Path(o.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
