"""What tests/test_averaging.py lets torchrun start: weights averaged by real processes, in every form, and what goes wrong.

torchrun --nproc_per_node=2 tests/averaging_worker.py FOLDER
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ranks_worker
import tiny
import torch
from torch.utils._pytree import tree_map

from effdl.errors import EffdlError
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.records.run import Run
from effdl.training.averaging import Averaging
from effdl.training.optim import Sgd
from effdl.training.quantised import Quantised
from effdl.training.ranks import Ranks, joined
from effdl.training.sync import Sync

EPOCHS, TRAIN, LR = 2, 45, 0.05  # batches of 8, the last of 5: six steps an epoch
MEAN = Averaging(every=4, form="tensors")
CASES: dict[str, Sync | None] = {
    "tensors": MEAN,
    "lossless": replace(MEAN, form="lossless"),
    "nesterov": replace(MEAN, form="lossless", outer="nesterov"),
    "float16": replace(MEAN, form="float16"),
    "bfloat16, weights": replace(MEAN, form="bfloat16", sends="weights"),
    "8 bits": replace(MEAN, form="plain", bits=8),
    "8 bits, weights": replace(MEAN, form="plain", bits=8, sends="weights"),
    "huffman, nesterov": replace(MEAN, form="huffman", outer="nesterov"),
    "every step": replace(MEAN, every=1),
    "quantised": Quantised(bits=12),
    "none": None,
}


class Parts(Run):
    """Keeps its checkpoints, as the files of rank 0 would, and goes on from the last one."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.saved: list[Any] = []

    def save(self, state: Any) -> None:
        self.saved.append(tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, state()))

    def load(self) -> Any:
        return self.ranks.agree(lambda: self.saved[-1] if self.saved else None)


def fit(
    ranks: Ranks, sync: Sync | None, epochs: int = EPOCHS, saved: list[Any] | None = None, method: Any = None
) -> dict[str, Any]:
    run = Parts(optimizer=Sgd(lr=LR, momentum=0.9, weight_decay=0.0), ranks=ranks, sync=sync)
    run.saved = saved or []
    network = (method or Backprop(epochs=epochs)).fit(ranks_worker.problem(TRAIN), ranks_worker.chain(), run)
    return {"weights": tiny.copied(network), "lines": run.lines, "saved": run.saved}


def resumed(ranks: Ranks) -> dict[str, Any]:
    """A run of three epochs that goes on from the checkpoint after its first, on rank 0, where momenta differ."""
    sync = replace(MEAN, form="huffman", outer="nesterov")
    whole = fit(ranks, sync, 3)
    assert ranks.rank or len(whole["saved"][0]["learners"][0]["syncing"]["parts"]) == ranks.size
    again = fit(ranks, sync, 3, whole["saved"][:1])
    return {"whole": whole["weights"], "again": again["weights"]}


def damaged(ranks: Ranks) -> str:
    """What is said where a bit of what comes from rank 1 flips on its way."""
    swap = Ranks.swap

    def flipping(self: Ranks, *args: Any) -> list[bytes]:
        found = swap(self, *args)
        found[1] = found[1][:200] + bytes([found[1][200] ^ 4]) + found[1][201:]
        return found

    Ranks.swap = flipping  # type: ignore[method-assign]
    try:
        fit(ranks, replace(MEAN, form="lossless"))
    except EffdlError as error:
        return str(error)
    finally:
        Ranks.swap = swap  # type: ignore[method-assign]
    return "nothing"


def hung(ranks: Ranks) -> tuple[str, float]:
    """What rank 0 says of rank 1, which does not answer, and after how long. No connection is left then."""
    if ranks.rank == 1:
        time.sleep(6)
        return "", 0.0
    begun = time.monotonic()
    try:
        ranks.swap(b"packet", 1.5, 100)
    except EffdlError as error:
        return str(error), time.monotonic() - begun
    return "nothing", 0.0


def main() -> None:
    torch.set_num_threads(1)
    with joined(int(os.environ["WORLD_SIZE"]), "cpu") as ranks:
        ended: dict[str, Any] = {name: fit(ranks, sync) for name, sync in CASES.items()}
        ended["dll"] = fit(ranks, replace(MEAN, outer="nesterov"), method=Segmentwise(epochs=EPOCHS))
        for one in ended.values():
            del one["saved"]
        ended["resumed"] = resumed(ranks)
        ended["damaged"] = damaged(ranks)
        ended["swapped"] = ranks.swap(bytes([ranks.rank]) * (ranks.rank + 1), 60.0, 100)
        if ranks.size == 2:
            ended["hung"] = hung(ranks)
        torch.save(ended, Path(sys.argv[1]) / f"rank{ranks.rank}.pt")
        sys.stdout.flush()
        os._exit(0)  # nobody waits for one who has hung


if __name__ == "__main__":
    main()
