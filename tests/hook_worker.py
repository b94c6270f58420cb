"""What tests/test_hook.py lets torchrun start: torch's own data-parallel training with gradients as packets.

torchrun --nproc_per_node=2 tests/hook_worker.py FOLDER
"""

import copy
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from effdl.compression import HookState, ddp, hook

STEPS = 100
KINDS: dict[str, dict[str, Any]] = {"8 bits": {"bits": 8}, "2 bits": {"bits": 2}, "a twentieth": {"bits": 6, "share": 0.05}}


def slope(step: int, rank: int, shape: torch.Size) -> Tensor:
    """A gradient that is known."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1000 * rank + step)) + 0.1


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 20))


def slopes(rank: int, **how: Any) -> dict[str, Any]:
    """Of 100 steps what came out of the hook in all, and what this process's packets have lost until now."""
    inner = network()
    model, state = DistributedDataParallel(inner, bucket_cap_mb=0.002), HookState(inner, **how)  # more than one bucket
    model.register_comm_hook(state, hook)
    total = [torch.zeros_like(p) for p in inner.parameters()]
    for step in range(STEPS):
        inner.zero_grad()
        loss = sum((p * slope(step, rank, p.shape)).sum() for p in inner.parameters())
        (loss + 0 * model(torch.ones(2, 40)).sum()).backward()  # by way of the model, which looks out for its gradients
        for sum_, p in zip(total, inner.parameters(), strict=True):
            assert p.grad is not None
            sum_ += p.grad
    return {"total": total, "lost": list(state.lost.values()), "names": list(state.lost), "sent": state.sent}


def trained(rank: int, kind: str | None, stop: bool = False) -> Any:
    """Weights after 30 steps, resumed from the fifteenth where asked for."""
    inner = network()
    optimizer, state = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.9), HookState(inner, bits=4)
    model = DistributedDataParallel(inner)
    if kind is not None:
        model.register_comm_hook(state, hook)
    for step in range(30):
        if stop and step == 15:
            kept = copy.deepcopy((inner.state_dict(), optimizer.state_dict(), state.state_dict()))
            inner = network()
            optimizer = torch.optim.SGD(inner.parameters(), lr=0.05, momentum=0.9)
            state = pickle.loads(pickle.dumps(state)).bind(inner)
            model = DistributedDataParallel(inner)
            model.register_comm_hook(state, hook)
            inner.load_state_dict(kept[0]), optimizer.load_state_dict(kept[1]), state.load_state_dict(kept[2])
        x = torch.randn(8, 40, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        (model(x) - x[:, :20].tanh()).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in inner.parameters()]


def damaged() -> str:
    inner, gathered = network(), ddp._gathered

    def flipping(*args: Any) -> list[bytes]:
        found = gathered(*args)
        return [found[0], found[1][:100] + bytes([found[1][100] ^ 1]) + found[1][101:]]

    ddp._gathered = flipping
    try:
        model = DistributedDataParallel(inner)
        model.register_comm_hook(HookState(inner), hook)
        model(torch.ones(2, 40)).sum().backward()
    except (RuntimeError, ValueError) as error:
        return str(error)
    finally:
        ddp._gathered = gathered
    return "nothing"


def main() -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    ended: dict[str, Any] = {name: slopes(rank, **how) for name, how in KINDS.items()}
    ended |= {"plain": trained(rank, None), "4 bits": trained(rank, "4 bits"), "resumed": trained(rank, "4 bits", stop=True)}
    ended["damaged"] = damaged() if distributed.get_world_size() == 2 else ""
    torch.save(ended, Path(sys.argv[1]) / f"rank{rank}.pt")
    distributed.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
