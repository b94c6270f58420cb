"""What effdl's own code costs and gains, each beside a named peer, measured in turns in one run on one thread.

    python scripts/bench.py [steps] [feednets] [memory] [augment] [startup]
    python scripts/bench.py gpu

Ratios of medians; the times themselves depend on the machine and its other work. Nothing here is a test. The section gpu, alone
in that it needs one, prints images a second and MiB too.
"""

import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.augment.standard import Standard
from effdl.config import build_choice
from effdl.costs.rehearsal import Prefix, Rehearsal
from effdl.datasets.batch import Batch
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import SoftmaxCe
from effdl.training.decision_rule import DecisionRule
from effdl.training.epoch import drain_epoch
from effdl.training.features import Stack
from effdl.training.feednet import feednet
from effdl.training.handle import Memory
from effdl.training.hardware import Hardware, restoring
from effdl.training.learner import Learner
from effdl.training.loop import reseed
from effdl.training.optim import Sgd
from effdl.training.recompute import Recompute
from effdl.training.sources import Fed

T = TypeVar("T")
Row = tuple[str, float, str]  # what is compared, ours over the peer's, what is wanted
Sections = Mapping[str, Callable[[], Iterator[Row]]]


def medians(ours: Callable[[], object], peer: Callable[[], object], seconds: float = 6.0) -> tuple[float, float]:
    """Median seconds of both, called in turns."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 5:
        for call, taken in zip((ours, peer), times, strict=True):
            before = time.perf_counter()
            call()
            taken.append(time.perf_counter() - before)
    return statistics.median(times[0]), statistics.median(times[1])


def in_turns(times: int, *calls: Callable[[], object], of: Callable[[list[float]], float] = statistics.median) -> list[float]:
    """Median seconds of processor time of each call, made in turns; or what else is asked for of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(times):
        for call, seconds in zip(calls, taken, strict=True):
            before = time.process_time()
            call()
            seconds.append(time.process_time() - before)
    return [of(seconds) for seconds in taken]


def problem(shape: tuple[int, ...], samples: int, batch_size: int) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, *shape), dtype=torch.uint8, generator=generator)
    data = Samples(x if len(shape) == 3 else x.float() / 255, torch.arange(samples) % 10)
    return Problem(data, data.take(torch.arange(10)), SoftmaxCe(), outputs=10, batch_size=batch_size)


def steps() -> Iterator[Row]:
    """A training step of backprop by the engine, beside the same step as a bare loop."""
    for name, shape, batch_size, count, wanted in (
        ("cnn4", (1, 28, 28), 128, 10, "≤ 1.03"),
        ("vgg13_bn", (1, 28, 28), 128, 1, "≤ 1.03"),
        ("mlp", (784,), 32, 100, "≤ 1.15"),
    ):
        data = problem(shape, count * batch_size, batch_size)
        chains = []
        for _ in range(2):
            reseed(0)
            arch = build_choice("arch", name)
            chains.append((type(arch)(hidden=(50,)) if name == "mlp" else arch).build(facts(shape, batch_size)))
        engine, bare = _engine(data, chains[0]), _bare(data, chains[1])
        ours, peer = medians(engine, bare, 20.0 if name == "vgg13_bn" else 6.0)
        yield f"step of {name}, batch {batch_size}, over a bare loop", ours / peer, wanted


def facts(shape: tuple[int, ...], batch_size: int) -> Facts:
    return Facts(shape, "classes", 10, 1280, 10, 10, batch_size)


def _engine(data: Problem, chain: BlockChain, hardware: Hardware | None = None) -> Callable[[], object]:
    hardware, learner = hardware or Hardware(), _segment(chain, 0, len(chain), chain.head)
    learner.rule.hardware = hardware
    if hardware.compile:
        learner.rule.compile_blocks()
    source = Fed(data, 0, hardware)
    source.through.look(Stack((chain.input,), (0,)))  # neither kept nor compiled, as in the bare loop
    return lambda: drain_epoch({"": learner}, source.train(0), lambda step: False)


def _bare(data: Problem, chain: BlockChain, hardware: Hardware | None = None) -> Callable[[], object]:
    hardware, network = hardware or Hardware(), chain.train()
    samples, optimizer = data.train_tensors(), torch.optim.SGD(chain.parameters(), lr=0.01, momentum=0.9)
    if hardware.compile:
        network = torch.compile(chain)

    def epoch() -> None:
        order = torch.randperm(len(samples)).to(samples.y.device)
        for index in order.split(data.batch_size):
            x = samples.x[index]
            x = x.contiguous(memory_format=hardware.memory_format) if x.dim() == 4 else x
            with hardware.autocast():
                loss = F.cross_entropy(network(x).float(), samples.y[index])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def memory() -> Iterator[Row]:
    """Peak of the worst segment over full backprop's, plain decision block, batch 128, SGD with momentum, 32 pixels.

    Counted; what a process takes is `bench_memory.py`'s.
    """
    for name, wanted, recomputed in (
        ("vgg13_bn", "≤ 0.43", "≤ 0.33"),
        ("efficientnet_b0", "≤ 0.24", "≤ 0.18"),
        ("efficientnet_v2_s", "≤ 0.18", "≤ 0.14, of which weights leave none"),
    ):
        chain, batch = _network(name)
        peaks = _segment_peaks(chain, batch)
        whole = _segment(chain, 0, len(chain), chain.head)
        full = Rehearsal(whole, Prefix(batch, chain.input, fake=True)).memory().peak
        whole.rule.checkpoint = True
        least = Rehearsal(whole, Prefix(batch, chain.input, fake=True)).memory().peak
        yield f"worst segment of {name} over full backprop", max(m.peak for m in peaks) / full, wanted
        for checkpoint in ("parts", "channels"):
            peak = max(_segment_peaks(chain, batch, checkpoint, feed_parts=4), key=lambda memory: memory.peak)
            yield f"  recomputed: {checkpoint}, fed in 4 parts", peak.peak / full, recomputed
            yield "    of it weights, gradients, momentum", 1 / full * (peak.peak - peak.by_kind["activation"]), "least"
        yield f"checkpointing {name} by block over full backprop", least / full, "for comparison"


def _segment_peaks(chain: BlockChain, batch: Batch, checkpoint: Recompute = False, feed_parts: int = 1) -> list[Memory]:
    """Of each block as a segment under the plain decision block."""
    prefix, peaks = Prefix(batch, chain.input, fake=True, parts=feed_parts), []
    for i, shape in enumerate(chain.shapes((3, 32, 32))):
        segment = _segment(chain, i, i + 1, Segmentwise().decision.build(shape, 10))
        segment.rule.checkpoint = checkpoint
        peaks.append(Rehearsal(segment, prefix).memory())
        prefix.climb(chain.blocks[i])
    return peaks


def _network(name: str) -> tuple[BlockChain, Batch]:
    reseed(0)
    chain: BlockChain = build_choice("arch", name).build(facts((3, 32, 32), 128)).eval()
    return chain, next(problem((3, 32, 32), 128, 128).train(0))


def in_child(call: Callable[..., T], *arguments: object) -> T:
    """What a function answers in a fresh process on one thread."""
    context = multiprocessing.get_context("spawn")  # a forked child would begin with this one's peak
    with context.Pool(1, torch.set_num_threads, (1,)) as pool:
        return pool.apply(call, arguments)


def _segment(chain: BlockChain, start: int, stop: int, head: nn.Module) -> Learner:
    rule = DecisionRule(chain[start:stop], head, SoftmaxCe())
    rule.yields = len(rule.blocks) == len(chain)  # what backprop's one segment puts out
    return Learner(rule, Sgd(lr=0.01).build(rule.parameters()), seed=lambda epoch, step: step)


def feednets() -> Iterator[Row]:
    """A frozen network's forward pass as a feednet, beside its own blocks in plain eager NCHW; batch 128, 32 pixels."""
    images = problem((3, 32, 32), 128, 128).train_tensors().x
    for name, wanted in (("vgg13_bn", "≤ 0.76"), ("efficientnet_b0", "≤ 0.30"), ("efficientnet_v2_s", "for comparison")):
        chain: BlockChain = build_choice("arch", name).build(facts((3, 32, 32), 128)).eval()
        fast = nn.Sequential(chain.input, *map(feednet, chain.blocks))
        plain = nn.Sequential(chain.input, *chain.blocks)
        with torch.no_grad():
            ours, peer = medians(lambda fast=fast: fast(images), lambda plain=plain: plain(images), 10.0)
        yield f"feednet of {name}, over its blocks", ours / peer, wanted


def augment() -> Iterator[Row]:
    """Augmenting and normalising a batch of 128 images of 32 pixels, beside torchvision v2 image by image."""
    from torchvision.transforms import v2

    stored = problem((3, 32, 32), 128, 128).train_tensors()
    images = stored.x
    for policy, wanted in (("cifar10", ("≤ 1/7", "≤ 1/8")), (None, ("≤ 1/25", "for comparison"))):
        change, generator = Standard(auto_augment=policy, cutout=16).prepare(stored), torch.Generator()
        chosen = [v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)] if policy else []
        last = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.25] * 3)]
        cut = [v2.RandomErasing(1.0, scale=(0.25, 0.25), ratio=(1.0, 1.0))]
        theirs = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *chosen, *last, *cut])
        of_files = v2.Compose([*theirs.transforms[:-3], v2.ToImage(), *theirs.transforms[-3:]])
        name = "crop, flip, AutoAugment, Cutout" if policy else "crop, flip, Cutout"

        def ours(change=change, generator=generator) -> Tensor:
            return change(images, generator).float().sub_(128).div_(64)

        batch_s, peer_s = medians(ours, lambda theirs=theirs: torch.stack([theirs(image) for image in images]))
        yield f"{name}, over torchvision v2 on tensors", batch_s / peer_s, wanted[0]
        yield f"{name}, over v2 on PIL images in 2 workers", batch_s / _loader_s(images, of_files), wanted[1]


def _loader_s(images: Tensor, transform: Callable[[object], Tensor]) -> float:
    """Seconds that a DataLoader of two workers takes for 128 PIL images, once it runs."""
    from torch.utils.data import DataLoader
    from torchvision.transforms.functional import to_pil_image

    pictures = [to_pil_image(image) for image in images] * 48
    loader = DataLoader(
        [*pictures], batch_size=128, num_workers=2, collate_fn=lambda batch: torch.stack([*map(transform, batch)])
    )
    # From one arrival to a later one, both while the workers have more to do: as many batches then lie finished or half done
    # at the end as at the start. To the loader's very end, those of the start would be had for nothing. The workers take
    # turns, so an even number of batches begins and ends at the same point of a turn.
    arrivals = [time.perf_counter() for _ in loader][8:-7]
    return (arrivals[-1] - arrivals[0]) / (len(arrivals) - 1)


def startup() -> Iterator[Row]:
    """Seconds of a finished run beyond `import torch`."""
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as results:
        command = [sys.executable, str(root / "run.py"), "arch=mlp", "method.epochs=1", f"results={results}"]
        ours, peer = medians(
            lambda: subprocess.run(command, check=True, capture_output=True, cwd=root),
            lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True),
            30.0,
        )
    yield "seconds that a finished run takes to answer, beyond `import torch`", ours - peer, "≤ 1 s"


def gpu() -> Iterator[Row]:
    """The engine on a GPU, beside a bare loop; and what the allocator says that segments take, beside full backprop."""
    if not torch.cuda.is_available():
        print("bench gpu: no CUDA device on this machine, nothing to measure", file=sys.stderr)
        return
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name in ("cnn4", "vgg13_bn", "efficientnet_v2_s"):
        yield from on_device(name, torch.device("cuda"), batch_size=512, steps=20, seconds=10.0)


def on_device(name: str, device: torch.device, batch_size: int, steps: int, seconds: float) -> Iterator[Row]:
    """A network in bf16 and channels last, eager and compiled: a step over a bare loop's, images a second, peaks in MiB."""
    data = problem((3, 32, 32), steps * batch_size, batch_size).to(device)
    for how, compiled in (("", False), (", compiled", True)):
        hardware = Hardware(device=device.type, precision="bf16", layout="channels_last", compile=compiled)
        with restoring():
            hardware.open()
            calls = [
                _waiting(make(data, _placed(name, hardware, device, batch_size), hardware), device) for make in (_engine, _bare)
            ]
            ours, peer = medians(calls[0], calls[1], seconds)
        what = f"{name}{how}, batch {batch_size}"
        yield f"step of {what}, over a bare loop", ours / peer, "≤ 1.03"
        yield f"images a second, {what}", steps * batch_size / ours, "for comparison"
    yield from _peaks(name, device, batch_size, next(data.train(0)))


def _peaks(name: str, device: torch.device, batch_size: int, batch: Batch) -> Iterator[Row]:
    hardware = Hardware(device=device.type, precision="bf16", layout="channels_last")
    chain = _placed(name, hardware, device, batch_size).eval()
    shapes, decision = chain.shapes((3, 32, 32)), Segmentwise().decision
    full = _peak(chain, _segment(chain, 0, len(chain), chain.head), 0, batch, hardware)
    whole = _segment(chain, 0, len(chain), chain.head)
    whole.rule.checkpoint = True
    least = _peak(chain, whole, 0, batch, hardware)
    heads = [decision.build(shape, 10).to(device) for shape in shapes]
    worst = max(_peak(chain, _segment(chain, i, i + 1, heads[i]), i, batch, hardware) for i in range(len(chain)))
    for what, peak in (("full backprop", full), ("checkpointing by block", least), ("the worst segment", worst)):
        yield f"allocator's peak in MiB of {name}, batch {batch_size}: {what}", peak / 2**20, "for comparison"


def _peak(chain: BlockChain, learner: Learner, below: int, batch: Batch, hardware: Hardware) -> float:
    """Most bytes that the allocator has given out in the second of two steps, the whole network's weights included."""
    learner.rule.hardware = hardware
    for repeat in range(2):
        if repeat and batch.y.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        with torch.no_grad(), hardware.autocast():
            x = chain[:below](chain.input(batch.x)).contiguous(memory_format=hardware.memory_format)
        waiting = [replace(batch, x=x)]
        del x
        for _ in learner.train_epoch(waiting.pop() for _ in range(1)):
            pass
    return torch.cuda.max_memory_allocated() if batch.y.is_cuda else float("nan")


def _placed(name: str, hardware: Hardware, device: torch.device, batch_size: int) -> BlockChain:
    reseed(0)
    chain: BlockChain = build_choice("arch", name).build(facts((3, 32, 32), batch_size))
    return hardware.place(chain, device)


def _waiting(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call, ended when the device has done its work."""

    def whole() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return whole


ALL = {"steps": steps, "feednets": feednets, "memory": memory, "augment": augment, "startup": startup}


def report(usual: Sections, there: Sections) -> None:
    """Print the rows of the sections that the command line names, or of the usual ones."""
    torch.set_num_threads(1)
    if unknown := [name for name in sys.argv[1:] if name not in there]:
        sys.exit(f"bench: no {unknown[0]!r}; there are {', '.join(there)}")
    for name in sys.argv[1:] or usual:
        for what, ratio, wanted in there[name]():
            shown = f"{ratio:7.3f}" if abs(ratio) >= 0.001 else f"{ratio:7.0e}"
            print(f"{what:66} {shown}   wanted {wanted}", flush=True)


if __name__ == "__main__":
    report(ALL, {**ALL, "gpu": gpu})
