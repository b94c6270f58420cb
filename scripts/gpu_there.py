"""Ends with 0 where there is a CUDA device, else with 3 and a line that says so: python scripts/gpu_there.py WHO."""

import sys

import torch

if not torch.cuda.is_available():
    print(f"{sys.argv[1]}: no CUDA device on this machine, nothing done", file=sys.stderr)
    sys.exit(3)
