"""What tests/test_counted_bytes.py lets torchrun start in a network of its own: bytes recorded, and those that its link saw.

torchrun --nproc_per_node=2 tests/counted_worker.py FOLDER
"""

import json
import os
import runpy
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from effdl.compression import HookState, hook
from effdl.objectives.losses import SoftmaxCe
from effdl.training.averaging import Averaging
from effdl.training.decision_rule import DecisionRule
from effdl.training.ranks import Ranks, joined
from effdl.training.wire import Form

FORMS: tuple[Form, ...] = ("tensors", "lossless", "float16", "huffman")
EXCHANGES = 5
COMPARED = ("none", "fp16", "PowerSGD, rank 2", "auto, 8 bits")  # hooks of scripts/bench_hooks.py
BENCH = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "bench_hooks.py"))


def on_the_link() -> int:
    """Bytes that the loopback has carried since it is there, headers and all."""
    (line,) = (line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[0])


def averaged(ranks: Ranks, form: Form) -> tuple[float, int]:
    torch.manual_seed(ranks.rank)
    rule = DecisionRule(nn.Sequential(nn.Linear(1000, 800)), nn.Linear(800, 10), SoftmaxCe())
    syncing = Averaging(every=1, form=form).begin(rule, torch.optim.SGD(rule.parameters()), ranks, lambda epoch: epoch)
    syncing.begin_epoch()
    distributed.barrier()
    before = on_the_link()
    for _ in range(EXCHANGES):
        syncing.updated()
    distributed.barrier()
    counted = on_the_link() - before
    syncing.end_epoch(0)
    return syncing.told["sync/bytes"], counted


def hooked(ranks: Ranks) -> tuple[float, int]:
    inner = nn.Linear(1000, 800)
    state, model = HookState(inner), DistributedDataParallel(inner)
    model.register_comm_hook(state, hook)
    distributed.barrier()
    before = on_the_link()
    for step in range(EXCHANGES):
        torch.manual_seed(10 * step + ranks.rank)
        model(torch.randn(4, 1000)).square().sum().backward()
    distributed.barrier()
    return float(ranks.total(torch.tensor(state.sent))), on_the_link() - before


def compared(ranks: Ranks, name: str) -> tuple[float, int]:
    """A hook's steps once it has begun: before them, weights go out and buckets are made."""
    inner, counted = BENCH["network"]((1, 28, 28), 0), BENCH["Counted"]()
    model, _ = BENCH["registered"](name, inner)
    with counted.counting():
        for step in range(BENCH["START"] + EXCHANGES):
            if step == BENCH["START"]:
                distributed.barrier()
                before, sent = on_the_link(), counted.sent
            torch.manual_seed(10 * step + ranks.rank)
            model(torch.randn(4, 1, 28, 28)).square().sum().backward()
    distributed.barrier()
    seen = on_the_link() - before
    return float(ranks.total(torch.tensor(counted.sent - sent))), seen


def main() -> None:
    torch.set_num_threads(1)
    with joined(int(os.environ["WORLD_SIZE"]), "cpu") as ranks:
        found = {**{form: averaged(ranks, form) for form in FORMS}, "hook": hooked(ranks)}
        found |= {f"compared: {name}": compared(ranks, name) for name in COMPARED}
        if ranks.rank == 0:
            (Path(sys.argv[1]) / "counted.json").write_text(json.dumps(found))
        distributed.barrier()
        os._exit(0)


if __name__ == "__main__":
    main()
