"""What a process takes for training, beside what a plan says: byte by byte, of five networks, on one thread.

    python scripts/bench_memory.py [network ...]

32 pixels, batch 128, SGD with momentum, the plain decision block, no outputs kept. Each line is of a process of its own that
takes two real steps of the layer whose plan is the largest, of full backprop, or of partitions that learn at once; MiB above
where the process stood before the network was built, with shares of full backprop's. *step* and *resident* are planned,
*process* is the kernel's mark. What the process is made of, after the operation in which the mark rose last, adds up to it:
*tensors*, those alive, weights of other
layers among them (fewer than *resident* where the mark rose at another moment than the count); *scratch*, what that operation
held within and had freed again, such as maps in a kernel's own layout; *freed*, what the C library held of freed memory;
*objects*, all else that it had given out: modules, graphs, plans of kernels; *python*, memory of processes that is not the C
library's, mostly Python's small objects and generated kernels, or less than nothing where freed pages are not there any longer;
*code*, pages of libraries that the steps are the first to use. Linux only.
"""

import ctypes
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bench import facts, in_child, problem
from torch import nn

from effdl.archs.chain import BlockChain
from effdl.config import build, build_choice, compose
from effdl.costs.memory import LiveStorages
from effdl.datasets.batch import Batch
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.records.plan import cost
from effdl.records.process import CLEAR_REFS, STATUS, read, reset
from effdl.training.decision_rule import DecisionRule
from effdl.training.feednet import feednet
from effdl.training.hardware import Hardware, give_back, keep_little
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.offload import Offload, Streamed, tensors
from effdl.training.offloaded import Offloaded
from effdl.training.optim import Sgd

KERNELS = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
NETWORKS = ("vgg13_bn", "efficientnet_b0", "efficientnet_v2_s", "shufflenet_v2_x1_0", "mobilenet_v2")
MIB = 2**20
LARGEST = "efficientnet_v2_s"  # whose partitions learn at once, too
TOGETHER = ("method=dpl", "method.together=true", "method.cut=batch", "method.memory_budget=0.395")


@dataclass(frozen=True)
class Case:
    """layer: that trains, by its number from 0; None for full backprop. parts: those that learn at once instead, the blocks
    [start, stop) of each, and which of them are recomputed."""

    network: str
    layer: int | None
    checkpointed: bool = False
    offload: bool = False
    parts: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Found:
    """Bytes of a process: the mark, and what there was when it rose last; see above. The others add up to it."""

    process: int
    tensors: int
    scratch: int
    freed: int
    objects: int
    python: int
    code: int


class Freed(ctypes.Structure):
    """mallinfo2(3)."""

    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]


class Held(NamedTuple):
    """Bytes of this process: its mark, what is resident, its own pages and those of files, what the C library has given out,
    and what it holds that was freed."""

    high: int
    resident: int
    own: int
    of_files: int
    given: int
    freed: int

    @classmethod
    def now(cls) -> "Held":
        pairs = (line.partition(":") for line in STATUS.read_text().splitlines())
        status = {name: int(value.split()[0]) * 1024 for name, _, value in pairs if name in KERNELS}
        given, freed = 0, 0
        with suppress(AttributeError):  # another C library
            library = ctypes.CDLL(None)
            library.mallinfo2.restype = Freed
            found = library.mallinfo2()
            given, freed = int(found.uordblks + found.hblkhd), int(found.fordblks)
        return cls(*(status[name] for name in KERNELS), given, freed)


class Peak(LiveStorages):
    """Looks at the mark after each operation: where it rose last, what was held then, and the bytes of all tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.tensors = Held(0, 0, 0, 0, 0, 0), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        CLEAR_REFS.write_text("5")
        out = super().__torch_dispatch__(func, types, args, kwargs)
        found = read()
        assert found is not None
        if found.high > self.at.high:
            self.at, self.tensors = Held.now(), self.live
        return out


def measured(case: Case) -> Found:
    """Two steps in this process."""
    import torch._dynamo  # noqa: F401 as the first optimizer does

    (batch,) = problem((3, 32, 32), 128, 128).train(0)
    reset()
    before, watch = Held.now(), Peak()
    with tempfile.TemporaryDirectory() as folder:
        steps(case, batch, Path(folder), watch)
    at = watch.at
    risen = Held(*(now - then for now, then in zip(at, before, strict=True)))
    return Found(
        process=at.high - before.resident,
        tensors=watch.tensors,
        scratch=at.high - at.resident,
        freed=risen.freed,
        objects=risen.given - watch.tensors,
        python=risen.own - risen.given - risen.freed,
        code=risen.resident - risen.own,
    )


def steps(case: Case, batch: Batch, folder: Path, watch: Peak) -> None:
    reseed(0)
    chain: BlockChain = build_choice("arch", case.network).build(facts((3, 32, 32), 128)).eval()
    if case.parts:
        at_once(case, chain, batch, watch)
        return
    offloaded = Offloaded(Offload("disk" if case.offload else None, torch.device("cpu"), lambda: folder), chain)
    start, stop = (0, len(chain)) if case.layer is None else (case.layer, case.layer + 1)
    shape = chain.shapes((3, 32, 32))[stop - 1]
    head = chain.head if case.layer is None else Segmentwise().decision.build(shape, 10)
    rule = DecisionRule(chain[start:stop], head, SoftmaxCe(), checkpoint=case.checkpointed)
    rule.yields = False
    learner = Learner(rule, Sgd(lr=0.01).build(rule.parameters()), seed=lambda epoch, step: step)
    offloaded.rest()
    keep_little()
    give_back()  # as the engine does before each turn
    offloaded.wake(start, learner)
    called = [offloaded.called(i, has_learned=True) for i in range(start)]
    fast = [block.fast(Hardware()) if isinstance(block, Streamed) else feednet(block) for block in called]
    feed = nn.Sequential(chain.input, *fast).eval()

    @torch.no_grad()
    def fed() -> Batch:
        x = feed(batch.x)
        return replace(batch, x=x.contiguous() if x.dim() == 4 else x)  # as `sources.Fed` does

    held = tensors(chain, rule, feed) if not case.offload else tensors(rule, chain.input)
    watch.book(held, "parameter")
    with watch:
        for _ in learner.train_epoch(fed() for _ in range(2)):
            pass


def at_once(case: Case, chain: BlockChain, batch: Batch, watch: Peak) -> None:
    """Each part learns from what the one below puts out."""
    learners, shapes = list[Learner](), chain.shapes((3, 32, 32))
    for start, stop, recomputed in case.parts:
        head = Segmentwise().decision.build(shapes[stop - 1], 10)
        rule = DecisionRule(chain[start:stop], head, SoftmaxCe(), checkpoint=recomputed)
        rule.yields = stop < len(chain)
        learners.append(Learner(rule, Sgd(lr=0.01).build(rule.parameters()), seed=lambda epoch, step: step))
    keep_little()
    give_back()
    watch.book(tensors(chain, *(learner.rule for learner in learners)), "parameter")
    flow: Iterable[Batch] = (replace(batch, x=chain.input(batch.x)) for _ in range(2))
    with watch:
        for learner in learners:
            flow = learner.train_epoch(flow)
        for _ in flow:
            pass


def lines(name: str) -> Iterator[str]:
    """A network's part of the table."""
    choices = ["method=dll", f"arch={name}", "dataset=cifar10", "dataset.batch_size=128", "method.keep_features_mib=0"]
    planned = cost(build(compose(choices)), rows=("backprop", "backprop_checkpointed"))
    away = cost(build(compose([*choices, "method.offload=disk"])), rows=())
    assert planned is not None and away is not None
    together = [choice for choice in choices if choice != "method=dll"] + list(TOGETHER)
    parts = cost(build(compose(together)), rows=()) if name == LARGEST else None
    full, checkpointed = planned.beside["backprop"], planned.beside["backprop_checkpointed"]
    backprop = in_child(measured, Case(name, None))
    rows = {"full backprop": (full.step, full.resident, backprop)}
    rows["checkpointed by block"] = (*checkpointed, in_child(measured, Case(name, None, checkpointed=True)))
    for what, of in (("the largest layer", planned), ("with offload=disk", away)):
        layer = max(range(len(of.segments)), key=lambda i: of.segments[i].resident)
        step, resident = of.segments[layer].memory.peak, of.segments[layer].resident
        rows[f"{what}, {of.blocks[layer]}"] = step, resident, in_child(measured, Case(name, layer, offload=of is away))
    if parts is not None and parts.recomputed is not None:
        cut = [(of.start, of.stop, again) for of, again in zip(parts.segments, parts.recomputed, strict=True)]
        of_each = tuple((start, stop, tuple(block - 1 - start for block in again)) for start, stop, again in cut)
        found = in_child(measured, Case(name, None, parts=of_each))
        rows["4 partitions at once, budget 0.395"] = parts.peak_bytes, parts.resident_bytes, found
    for what, (step, resident, found) in rows.items():
        shares = [(step, full.step), (resident, full.resident), (found.process, backprop.process)]
        told = " ".join(f"{size / MIB:6.0f} {size / whole:5.3f}" for size, whole in shares)
        parts = " ".join(f"{getattr(found, field.name) / MIB:7.0f}" for field in fields(Found)[1:])
        yield f"{name:18} {what:34} {told} {parts}"


def main() -> None:
    torch.set_num_threads(1)
    if unknown := [name for name in sys.argv[1:] if name not in NETWORKS]:
        sys.exit(f"bench: no {unknown[0]!r}; there are {', '.join(NETWORKS)}")
    if not CLEAR_REFS.exists():
        sys.exit("bench: this system keeps no mark of a process's memory that could be read operation by operation")
    print(
        f"{'MiB':53} {'step':>6} share {'resid.':>6} share {'proc.':>6} share tensors scratch   freed objects  python    code"
    )
    for name in sys.argv[1:] or NETWORKS:
        for line in lines(name):
            print(line, flush=True)


if __name__ == "__main__":
    main()
