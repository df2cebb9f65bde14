"""The same QLoRA step with PyTorch, transformers and peft (and bitsandbytes when it is there), on random weights of the same shape.

peer.py SHAPE BxN[,BxN...] OUT.json [--device cuda[:N]|cpu] [--repeat R]: SHAPE is mistral-7b or tiny, as in `pw bench synthetic:SHAPE`. Weights are made layer
by layer on the device, base in 4 bits (NF4, nested scales) with bitsandbytes, else in bf16, which is said; LoRA of rank 16 on all linears, gradient
checkpointing, AdamW, the attention that transformers picks (sdpa, or flash-attention when installed). OUT.json is written again after each size.
Used by tools/gpu/run on a card alone; nothing of the program needs it."""
import argparse, gc, json, sys, time
import torch

SHAPES = {
    "mistral-7b": dict(vocab_size=32768, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                       max_position_embeddings=32768, rms_norm_eps=1e-5, rope_theta=1e6, sliding_window=None),
    "tiny": dict(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                 max_position_embeddings=256, rms_norm_eps=1e-5, rope_theta=1e4, sliding_window=None),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def base_model(config, device):
    """A Mistral of random weights on the device, its linears in 4 bits when bitsandbytes can: one linear at a time, so that no bf16 model exists."""
    from transformers import MistralForCausalLM
    try:
        import bitsandbytes as bnb
    except Exception as why:
        bnb, reason = None, str(why).splitlines()[0][:120]
    dtype = torch.bfloat16
    with torch.device("meta"):
        model = MistralForCausalLM(config).to(dtype)
    def fresh(*shape):
        return torch.empty(*shape, dtype=dtype, device=device).normal_(0, 0.02)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head" and bnb:
            made = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4", device="meta")
            made.weight = bnb.nn.Params4bit(fresh(module.out_features, module.in_features), requires_grad=False, compress_statistics=True, quant_type="nf4").to(device)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, made)
        elif isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            module.weight = torch.nn.Parameter(fresh(*module.weight.shape), requires_grad=False)
        elif "RMSNorm" in type(module).__name__:
            module.weight = torch.nn.Parameter(torch.ones(module.weight.shape, dtype=dtype, device=device), requires_grad=False)
    # Buffers are no parameters: the rotary table is made again.
    rotary = type(model.model.rotary_emb)
    with torch.device(device):
        model.model.rotary_emb = rotary(config)
    left = [n for n, p in list(model.named_parameters()) + list(model.named_buffers()) if p.is_meta]
    assert not left, f"left without memory: {left}"
    return model, ("nf4, nested scales, bitsandbytes " + bnb.__version__) if bnb else "bf16 (no bitsandbytes: " + reason + ")"


def main():
    a = argparse.ArgumentParser()
    a.add_argument("shape", choices=SHAPES)
    a.add_argument("sizes")
    a.add_argument("out")
    a.add_argument("--device", default="cuda")
    a.add_argument("--repeat", type=int, default=3)
    o = a.parse_args()
    import peft, transformers
    cuda = o.device.startswith("cuda")
    if ":" in o.device:
        torch.cuda.set_device(o.device)
    used = lambda: (lambda free, total: total - free)(*torch.cuda.mem_get_info()) if cuda else 0
    wait = torch.cuda.synchronize if cuda else lambda: None
    torch.manual_seed(1)
    config = transformers.MistralConfig(**SHAPES[o.shape], use_cache=False)
    model, base = base_model(config, o.device)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"))
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optim = torch.optim.AdamW(trained, lr=1e-4, **({"fused": True} if cuda else {}))
    report = {"schema": 1, "shape": o.shape, "base": base, "device": torch.cuda.get_device_name() if cuda else "cpu", "trained": sum(p.numel() for p in trained),
              "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}, "runs": []}
    report["attention"] = getattr(config, "_attn_implementation", None)
    for size in o.sizes.split(","):
        b, _, n = size.rpartition("x")
        b, n = int(b or 1), int(n)
        row = {"batch": b, "tokens": n}
        try:
            ids = torch.randint(0, config.vocab_size, (b, n), device=o.device)
            best = None
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            for i in range(o.repeat + 1):  # the first step warms up
                wait()
                at = time.perf_counter()
                optim.zero_grad(set_to_none=True)
                with torch.autocast(o.device.split(":")[0], dtype=torch.bfloat16):
                    loss = model(input_ids=ids, labels=ids).loss
                loss.backward()
                optim.step()
                wait()
                seconds = time.perf_counter() - at
                best = seconds if i and (best is None or seconds < best) else best
            assert torch.isfinite(loss).item()
            row.update(seconds=best, tokens_per_s=b * n / best, loss=loss.item())
            if cuda:
                row.update(max_allocated_bytes=torch.cuda.max_memory_allocated(), in_use_bytes=used())
        except Exception as why:  # a size that does not fit leaves the others
            row["error"] = str(why).splitlines()[0][:200]
            optim.zero_grad(set_to_none=True)
            gc.collect()
        report["runs"].append(row)
        with open(o.out, "w") as f:
            json.dump(report, f)
        print(json.dumps(row), file=sys.stderr)
    return 0 if any("error" not in r for r in report["runs"]) else 1


sys.exit(main())
