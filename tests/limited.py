"""`python tests/limited.py FSIZE 100000 key=value ...`: what run.py does, under a resource limit that is set after the imports.

AS counts from what the imports have taken (torch alone takes 3.3 GB of address space). Python ignores SIGXFSZ, so that a file
beyond RLIMIT_FSIZE is an OSError, as on a full disk.
"""

import resource
import sys
from pathlib import Path

import sklearn.datasets  # noqa: F401
import torch

import effdl.archs.cnn
import effdl.archs.mlp
import effdl.methods.segmentwise
import effdl.records.carry  # noqa: F401
from effdl import cli


def address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    kind, amount = sys.argv[1], int(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    torch.ones(8, 8, requires_grad=True).matmul(torch.ones(8, 8)).sum().backward()  # the threads that torch starts once
    limit = amount + (address_space() if kind == "AS" else 0)
    resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (limit, limit))
    cli.main(lambda: sys.exit("without flags only: they go through Hydra's entry point"))
