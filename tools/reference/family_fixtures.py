#!/usr/bin/env python3
"""tests/fixtures/families: a tiny model of every family with what transformers and peft make of it (families.py).

    family_fixtures.py make OUT [NAME...]

Needs torch, transformers, peft, safetensors (requirements.txt); not part of make check, which reads the committed results.
"""
import pathlib
import sys

import torch

import families

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "make":
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for name in sys.argv[3:] or families.FAMILIES:
        g = families.make(pathlib.Path(sys.argv[2]) / name, name, 7)
        print(name, "loss %.4f" % g["train"]["loss"], "margin %.3g" % g["generation"]["margin"], "generate() gives the same:", g["generation"]["same_as_generate"])
