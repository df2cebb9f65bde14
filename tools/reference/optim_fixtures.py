#!/usr/bin/env python3
"""Steps of 8-bit AdamW by bitsandbytes on a CPU: optim_fixtures.py make OUT writes OUT/adamw8.safetensors: p, m, v, m_scale, v_scale after
the fifth step (names end in 5) and after the sixth. optim_fixtures.py apart says how far bitsandbytes is from itself after 20 steps when its gradients
are moved by so little as a sum in another order moves them: what two programs cannot be expected to agree on.

4500 elements in blocks of 256, six steps. The start and the gradients are dyadic numbers from a counter that tests/test_train_optim.c has as well.
Weight decay is 0: bitsandbytes multiplies by 1 - lr * decay after the update, PyTorch and this project before it. Needs torch, bitsandbytes."""
import pathlib
import sys

import bitsandbytes
import torch
from safetensors.torch import save_file

N, STEPS = 4500, 6


def number(i, t):
    x = (i * 2654435761 + t * 40503 + 12345) % (1 << 32)
    x = (x * 1664525 + 1013904223) % (1 << 32)
    return (x >> 16) / 65536 - 0.5


def make(out):
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    p = torch.nn.Parameter(torch.tensor([number(i, 0) for i in range(N)], dtype=torch.float32))
    o = bitsandbytes.optim.AdamW8bit([p], lr=2.0 ** -6, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    kept = {}
    for t in range(1, STEPS + 1):
        p.grad = torch.tensor([number(i, t) * 2.0 ** -(i % 9) for i in range(N)], dtype=torch.float32)
        o.step()
        s = o.state[p]
        assert s["state1"].dtype == torch.uint8, "the states are not in 8 bits"
        if t >= STEPS - 1:
            kept |= {f"{k}{t}": v.clone() for k, v in (("p", p.data), ("m", s["state1"]), ("v", s["state2"]), ("m_scale", s["absmax1"]), ("v_scale", s["absmax2"]))}
    save_file(kept, str(out / "adamw8.safetensors"),
              metadata={"bitsandbytes": bitsandbytes.__version__})
    (out / "adamw8.safetensors").chmod(0o644)
    print(s["absmax1"].shape, p.data[:4])


def twenty_steps(noise, n=65536):
    rng, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(99)
    start, target = torch.randn(n, generator=rng) * 0.02, torch.randn(n, generator=rng) * 0.05
    p = torch.nn.Parameter(start.clone())
    o = bitsandbytes.optim.AdamW8bit([p], lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    for _ in range(20):
        g = (p.data - target) * torch.rand(n, generator=rng) + 0.02 * torch.randn(n, generator=rng)
        p.grad = g * (1 + noise * torch.randn(n, generator=own))
        o.step()
    return p.data - start


def apart():
    still = twenty_steps(0)
    for noise in (0, 1e-8, 1e-7, 1e-6, 1e-5):
        d = twenty_steps(noise) - still
        print(f"gradients moved by {noise:g}: largest difference {d.abs().max() / still.abs().max():.1e} of the largest update, in the mean square {d.norm() / still.norm():.1e}")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "make":
        make(sys.argv[2])
    elif len(sys.argv) == 2 and sys.argv[1] == "apart":
        apart()
    else:
        sys.exit(__doc__)
