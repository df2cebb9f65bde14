"""Every model family against transformers and peft, live: models, adapters and texts of a fresh seed (families.py).

Needs the packages of requirements.txt. Run from the repository. The comparisons and their bounds are those of tests/test_families.c, which reads the
folder named by PW_FAMILIES in place of the committed fixtures.
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import torch

import families


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--seed", type=int, required=True)
    seed = a.parse_args().seed % 10**6
    torch.set_num_threads(1)
    build = subprocess.run(["make", "-s", "--no-print-directory", "print-B"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["make", "-s", build + "/tests/test_families"], check=True)
    with tempfile.TemporaryDirectory() as at:
        for i, name in enumerate(families.FAMILIES):
            families.make(pathlib.Path(at) / name, name, seed + i)
        p = subprocess.run([build + "/tests/test_families"], env={**os.environ, "PW_FAMILIES": at}, capture_output=True, text=True)
    print(p.stdout + p.stderr)
    return p.returncode


if __name__ == "__main__":
    sys.exit(main())
