"""Communication hooks of torch's DistributedDataParallel beside one another: loss after some steps, and bytes on their way.

    python scripts/bench_hooks.py [--dataset mnist] [--steps 300] [--seeds 3] [--write FILE]

Two processes under gloo train a small CNN on images of the training split, of which the last are held out; weights, batches and
optimizer are the same for all hooks of a seed, and nothing is tuned for any. Bytes are those that a rank sends to others,
counted for all at torch's collectives: 2 (n − 1) / n of a tensor that n ranks sum, as a ring does it, and n − 1 times one that
they gather. PowerSGD (Vogels et al. 2019) sends gradients as they are for its first ten steps; it and packets feed errors back.
A step's seconds are of this machine's loopback, and of both processes on it: on links that are slow, bytes count.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from effdl.compression import HookState, hook
from effdl.config import build_choice
from effdl.records.report import size

WORKERS, BATCH, HELD_OUT = 2, 64, 5000
LR, MOMENTUM = 0.05, 0.9
START = 10  # steps before PowerSGD begins
Found = dict[str, Any]
# What torch has, PowerSGD by its rank, and ours by what HookState is given.
HOOKS: dict[str, Callable[..., Any] | int | dict[str, Any]] = {
    "none": default_hooks.allreduce_hook,
    "fp16": default_hooks.fp16_compress_hook,
    "bf16": default_hooks.bf16_compress_hook,
    "PowerSGD, rank 1": 1,
    "PowerSGD, rank 2": 2,
    "plain, 8 bits": {"bits": 8, "coder": "plain"},
    "auto, 8 bits": {"bits": 8},
    "huffman, 8 bits": {"bits": 8, "coder": "huffman"},
    "auto, 4 bits": {"bits": 4},
    "auto, 6 bits, share 0.05": {"bits": 6, "share": 0.05},
}


class Counted:
    """Bytes that this rank has given to the others by collectives until now."""

    def __init__(self) -> None:
        self.sent = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Within, what hooks call is counted."""
        summing, gathering, ranks = distributed.all_reduce, distributed.all_gather, distributed.get_world_size()

        def all_reduce(tensor: Tensor, *args: Any, **more: Any) -> Any:
            self.sent += 2 * (ranks - 1) * tensor.nbytes // ranks
            return summing(tensor, *args, **more)

        def all_gather(tensors: list[Tensor], tensor: Tensor, *args: Any, **more: Any) -> Any:
            self.sent += (ranks - 1) * tensor.nbytes
            return gathering(tensors, tensor, *args, **more)

        vars(distributed).update(all_reduce=all_reduce, all_gather=all_gather)
        try:
            yield
        finally:
            vars(distributed).update(all_reduce=summing, all_gather=gathering)


def network(shape: tuple[int, ...], seed: int) -> nn.Module:
    """Two convolutions and two layers above, for ten classes. shape: (C, H, W) of an image."""
    torch.manual_seed(seed)
    below = [nn.Conv2d(shape[0], 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(), nn.Flatten()]
    features = nn.Sequential(*below)(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*below, nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 10))


def registered(name: str, inner: nn.Module) -> tuple[DistributedDataParallel, HookState | None]:
    """The network with a hook, and the hook's state where it is ours."""
    model, how = DistributedDataParallel(inner), HOOKS[name]
    if isinstance(how, dict):
        state = HookState(inner, **how)
        model.register_comm_hook(state, hook)
        return model, state
    if isinstance(how, int):
        thin = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=how, start_powerSGD_iter=START)
        model.register_comm_hook(thin, powerSGD_hook.powerSGD_hook)
    else:
        model.register_comm_hook(None, how)
    return model, None


def images(dataset: str) -> tuple[Tensor, Tensor]:
    """Those of the training split, (N, C, H, W) from 0 to 1, and their classes."""
    train, _ = build_choice("dataset", dataset).load()
    return train.x / train.x.max(), train.y


def trained(name: str, seed: int, steps: int, x: Tensor, y: Tensor) -> Found:
    """Of one hook and seed what each rank sent by step, the loss on what is held out, and a step's seconds."""
    held, rank = min(HELD_OUT, len(x) // 5), distributed.get_rank()
    inner, counted = network(tuple(x.shape[1:]), seed), Counted()
    model, state = registered(name, inner)
    optimizer = torch.optim.SGD(inner.parameters(), lr=LR, momentum=MOMENTUM)
    draw = torch.Generator().manual_seed(seed)
    first, bytes_, taken = _scored(inner, x[-held:], y[-held:]), list[int](), list[float]()
    with counted.counting():
        for _ in range(steps):
            at = torch.randint(len(x) - held, (WORKERS, BATCH), generator=draw)[rank]
            before, begun = counted.sent, time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(model(x[at]), y[at]).backward()
            optimizer.step()
            taken.append(time.perf_counter() - begun)
            bytes_.append(counted.sent - before)
    loss, accuracy = _scored(inner, x[-held:], y[-held:])
    told = {"hook": name, "seed": seed, "first_loss": first[0], "loss": loss, "accuracy": accuracy}
    total = sum(float(p.detach().double().sum()) for p in inner.parameters())
    ours = {"bytes": bytes_, "sent": state.sent if state else None, "sum": total, "step_s": statistics.median(taken)}
    ranks: list[Found] = [{} for _ in range(WORKERS)]
    distributed.all_gather_object(ranks, ours)
    told |= {"bytes": [one["bytes"] for one in ranks], "sent": [one["sent"] for one in ranks] if state else None}
    told |= {"weights_sum": total, "ranks_agree": len({one["sum"] for one in ranks}) == 1}
    return {**told, "step_s": max(one["step_s"] for one in ranks)}


@torch.no_grad()
def _scored(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean loss, and the share that is classified rightly."""
    logits = model(x)
    return float(F.cross_entropy(logits, y)), float((logits.argmax(1) == y).float().mean())


def _row(found: list[Found], raw: float) -> str:
    """A hook over all its seeds."""
    by_rank = [statistics.fmean(b for one in found for b in one["bytes"][rank]) for rank in range(WORKERS)]
    last = max(bytes_[-1] for one in found for bytes_ in one["bytes"])
    sent = " ".join(f"{size(count):>9}" for count in (*by_rank, last))
    losses, accuracies = ([one[key] for one in found] for key in ("loss", "accuracy"))
    spread = f"{statistics.fmean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
    share, taken = max(by_rank) / raw, statistics.median(one["step_s"] for one in found)
    return f"{found[0]['hook']:25} {sent} {share:8.1%}  {spread:26} {statistics.fmean(accuracies):8.2%} {1000 * taken:8.1f} ms"


def main(want: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    x, y = images(want.dataset)
    leads, found = distributed.get_rank() == 0, list[Found]()
    raw = float(sum(p.nbytes for p in network(tuple(x.shape[1:]), 0).parameters()))
    if leads:
        what = f"{want.dataset}, {want.steps} steps, {WORKERS} ranks, {BATCH} images each, seeds 0 to {want.seeds - 1}"
        print(f"{what}; gradients of {size(raw)}. Sent in the mean of steps by each rank, and in the last one at most:")
        sent = f"{'rank 0':>9} {'rank 1':>9} {'last step':>9} {'of raw':>8}"
        print(f"{'hook':25} {sent}  {'loss, held out':26} {'accuracy':>8} {'a step':>11}")
    for name, seed in product(HOOKS, range(want.seeds)):
        found.append(trained(name, seed, want.steps, x, y))
        if leads and seed == want.seeds - 1:
            print(_row(found[-want.seeds :], raw), flush=True)
    if leads and want.write is not None:
        want.write.write_text(json.dumps(found))
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # not torn down one before the other


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench hooks")
    parser.add_argument("--dataset", default="mnist", help="of images and ten classes; by default mnist")
    parser.add_argument("--steps", type=int, default=300, help="by default 300")
    parser.add_argument("--seeds", type=int, default=3, help="from 0 on; by default 3 of them")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where all of it goes as JSON, with bytes by step")
    found = parser.parse_args()
    if min(found.steps, found.seeds) < 1:
        parser.error("--steps and --seeds: from 1")
    return found


if __name__ == "__main__":
    arguments = asked()
    if "RANK" not in os.environ:
        os.environ |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={WORKERS}"]
        os.execv(sys.executable, [sys.executable, *torchrun, __file__, *sys.argv[1:]])
    main(arguments)
