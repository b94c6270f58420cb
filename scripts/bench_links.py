"""What averaging is foretold to take, beside what it takes between two workers on links of their own.

    python scripts/bench_links.py [10Mbit] [100Mbit] [1Gbit] [10Gbit] [unshaped] [--exchanges N] [--keep results]

Two network namespaces, joined by a pair of virtual Ethernet links that `tc` shapes to the rate in either direction, hold a
process each, and these average the weights of two networks by `sync=averaging`, over TCP by gloo. Each measures its coding just
before, while the other one does, and what an empty packet takes: the prediction is `costs.exchange`'s from these, and from the
rate that the link is shaped to; of the unshaped one from how fast bytes that are no weights go through. All are medians of
several, made in turns, so that what else runs on the machine adds to both alike. An exchange's seconds are the mean of its
workers', as each waits for the other. A link that is faster than the machine's own loopback is predicted only, and so are
more workers than two. ``--keep`` puts all into the results folder, of whose links `make readme` makes the page's tables. Needs
root and iproute2, and leaves nothing behind.
"""

import argparse
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from effdl.costs.exchange import FRAMED, Coded, Exchange, loopback, mean_seconds, measured
from effdl.errors import EffdlError
from effdl.objectives.losses import SoftmaxCe
from effdl.records.links import bits_per_second, seconds
from effdl.records.provenance import provenance
from effdl.reproduce import link_table
from effdl.training.averaging import Averaging, averaged
from effdl.training.decision_rule import DecisionRule
from effdl.training.ranks import Ranks
from effdl.training.wire import Form, Wire

UNSHAPED = "unshaped"
LINKS = ("10Mbit", "100Mbit", "1Gbit", UNSHAPED, "10Gbit")
NETWORKS = {"784-392-50-10": (784, 392, 50, 10), "784-1000-200-10": (784, 1000, 200, 10)}
FORMS: dict[str, tuple[Form, int | None]] = {
    "tensors": ("tensors", None),
    "lossless": ("lossless", None),
    "float16": ("float16", None),
    "plain, 8 bits": ("plain", 8),
    "huffman, 8 bits": ("huffman", 8),
    "zstd, 8 bits": ("zstd", 8),
}
EXCHANGES, WORKERS = {"10Mbit": 5}, 2
MANY = 9  # exchanges on links on which they take little
TRIES = 3
TOLD_WORKERS = (2, 8)  # of whom exchanges of the largest network are foretold, where they are not measured
BLOB_BYTES, BURST_S = 32 * 2**20, 0.001
ADDRESS, PORT = "10.213.7.", "29517"
Found = dict[str, Any]


@contextmanager
def link(rate: str) -> Iterator[list[str]]:
    """The names of two namespaces with a link of that rate between them. Raises EffdlError where there is no right to it."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("tc"):
        raise EffdlError("network namespaces need root, and ip and tc of iproute2")
    _clear()
    names = [f"effdl-{os.getpid()}-{end}" for end in range(WORKERS)]
    with ExitStack() as made:
        for name in names:
            _ip("netns", "add", name)
            made.callback(subprocess.run, ["ip", "netns", "delete", name], check=False, capture_output=True)
        ends = [{"dev": f"effdl{end}", "netns": name} for end, name in enumerate(names)]
        first, second = (["name", one["dev"], "netns", one["netns"]] for one in ends)
        _ip("link", "add", *first, "type", "veth", "peer", *second)
        for end, name in enumerate(names):
            device = ends[end]["dev"]
            _ip("-n", name, "address", "add", f"{ADDRESS}{end + 1}/24", "dev", device)
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            if rate != UNSHAPED:
                burst = max(16_000, int(bits_per_second(rate) / 8 * BURST_S))
                shape = ["rate", rate.lower(), "burst", str(burst), "latency", "100ms"]
                _call("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", device, "root", "tbf", *shape)
        yield names


def _clear() -> None:
    """Remove the namespaces of those that were killed before they could."""
    there = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
    for name in there:
        owner = re.fullmatch(r"effdl-([0-9]+)-[0-9]", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    _call("ip", *arguments)


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EffdlError(f"{' '.join(command)}: {' '.join(done.stderr.split())[:200]}")


def measure(rate: str, networks: Sequence[str], forms: Sequence[str], exchanges: int = MANY) -> list[Found]:
    """What two workers measure on a link, a line of `link_table` for each network and form."""
    with link(rate) as names, tempfile.TemporaryDirectory() as folder, ExitStack() as started:
        asked = json.dumps([rate, list(networks), list(forms), exchanges])
        answer = Path(folder) / "found.json"
        processes = []
        for end, name in enumerate(names):
            own = {"GLOO_SOCKET_IFNAME": f"effdl{end}", "MASTER_ADDR": f"{ADDRESS}1", "MASTER_PORT": PORT}
            place = {"RANK": str(end), "WORLD_SIZE": str(WORKERS), "OMP_NUM_THREADS": "1"}
            command = ["ip", "netns", "exec", name, sys.executable, str(Path(__file__).resolve()), "worker", asked, str(answer)]
            process = subprocess.Popen(command, env={**os.environ, **own, **place}, stderr=subprocess.PIPE, text=True)
            started.callback(process.kill)
            processes.append(process)
        for process in processes:
            _, said = process.communicate(timeout=900)
            if process.returncode:
                raise EffdlError(f"a worker ended: {said.strip().splitlines()[-1]}")
        found: list[Found] = json.loads(answer.read_text())
        return [{**line, "provenance": provenance()} for line in found]


def _worker(rate: str, networks: Sequence[str], forms: Sequence[str], exchanges: int) -> list[Found]:
    """Of each network and form, seconds of an exchange as they are predicted and as they are, the slower worker's."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    ranks = Ranks(distributed.get_rank(), WORKERS)
    found = []
    for network, name in product(networks, forms):
        place = {"link": rate, "workers": WORKERS, "network": network, "form": name}
        both: list[Found] = [{} for _ in range(WORKERS)]
        distributed.all_gather_object(both, _own_side(ranks, rate, network, *FORMS[name], exchanges))
        slower = max(both, key=lambda one: float(one["predicted_s"]))
        taken = [statistics.mean(times) for times in zip(*(one["measured_s"] for one in both), strict=True)]
        found.append({**place, **slower, "measured_s": taken})
    distributed.barrier()
    return found


def _own_side(ranks: Ranks, rate: str, network: str, form: Form, bits: int | None, exchanges: int) -> Found:
    """What one worker measures of coding, what follows from it, and what each exchange takes it."""
    rule = _rule(network, ranks.rank)
    how = Averaging(every=1, form=form, bits=bits, sends="weights")
    syncing = how.begin(rule, torch.optim.SGD(rule.parameters()), ranks, lambda epoch: epoch)
    syncing.begin_epoch()
    tensors = {name: p.detach() for name, p in averaged(rule).items()}
    drawn = {name: p.clone() for name, p in tensors.items()}
    syncing.updated()  # the first finds buffers to be made
    parts, means, owns, empties, taken = list[Coded](), list[float](), list[float](), list[float](), list[float]()
    for _ in range(exchanges):  # in turns, as much else may run beside
        for name, p in tensors.items():
            p.copy_(drawn[name])
        distributed.barrier()
        parts.append(measured(Wire(form, bits), tensors, budget=0.1))
        means.append(mean_seconds(tensors, budget=0.05))
        distributed.barrier()
        if rate == UNSHAPED:
            owns.append(BLOB_BYTES / _swapped(ranks, bytes(BLOB_BYTES)))
            distributed.barrier()
        empties.append(_swapped(ranks, bytes(1)))
        distributed.barrier()
        begun = time.perf_counter()
        syncing.updated()
        taken.append(time.perf_counter() - begun)
    own = statistics.median(owns) if owns else math.inf
    beside = {"latency_s": statistics.median(empties), "mean_s": statistics.median(means)}
    return {**told(rate, WORKERS, usual(parts), beside, own), "measured_s": taken}


def usual(parts: Sequence[Coded]) -> Coded:
    """Medians of coding."""
    times = (statistics.median(times) for times in zip(*((one.encode_s, one.decode_s) for one in parts), strict=True))
    return Coded(parts[0].packet_bytes, *times)


def told(rate: str, workers: int, coded: Coded, beside: Mapping[str, float], own: float) -> Found:
    """What an exchange is predicted to take on a link, with all that it follows from.

    beside: `latency_s` and `mean_s` of `Exchange`. own: bytes a second that a worker moves at most.
    """
    bits = math.inf if rate == UNSHAPED else bits_per_second(rate)
    predicted = Exchange(workers, bits, own, **beside).seconds(coded)
    return {**asdict(coded), **beside, "own_bytes_per_s": None if own == math.inf else own, "predicted_s": predicted}


def foretold(lines: Sequence[Found], own: float, origin: Found) -> list[Found]:
    """Lines of what is not measured: faster links and more workers, from coding as it was measured on all links.

    own: bytes a second that this machine's loopback moves. Of the last network, by link and then by workers.
    """
    network = list(NETWORKS)[-1]
    there = {(line["link"], line["workers"], line["form"]) for line in lines if line["network"] == network}
    coding = dict[str, tuple[Coded, dict[str, float]]]()
    for form in FORMS:
        if known := [line for line in lines if (line["network"], line["form"]) == (network, form)]:
            parts = [Coded(line["packet_bytes"], line["encode_s"], line["decode_s"]) for line in known]
            beside = {key: statistics.median(line[key] for line in known) for key in ("latency_s", "mean_s")}
            coding[form] = usual(parts), beside
    shaped = sorted(set(LINKS) - {UNSHAPED}, key=bits_per_second)
    places = ((rate, workers, form) for workers, rate, form in product(TOLD_WORKERS, shaped, coding))
    return [
        {
            **dict(zip(("link", "workers", "form"), place, strict=True)),
            "network": network,
            "measured_s": [],
            "provenance": origin,
        }
        | told(place[0], place[1], *coding[place[2]], own)
        for place in places
        if place not in there and (place[1] > WORKERS or too_fast(place[0], own))
    ]


def too_fast(rate: str, own: float) -> bool:
    """Whether this machine's loopback could not fill a link."""
    return rate != UNSHAPED and bits_per_second(rate) / (8 * FRAMED) > own


def keep(root: Path, fresh: Sequence[Found], own: float) -> Path:
    """Put what a link measured into the place of what was kept of it, and predictions anew beside all."""
    anew = {line["link"] for line in fresh}
    kept = [line for line in link_table.read(root) if line["measured_s"] and line["link"] not in anew]
    measured_ = sorted([*kept, *fresh], key=lambda line: LINKS.index(line["link"]))
    return link_table.write(root, [*measured_, *foretold(measured_, own, provenance())])


def _rule(network: str, seed: int) -> DecisionRule:
    torch.manual_seed(seed)
    widths = NETWORKS[network]
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths[:-1])]
    rule = DecisionRule(nn.Sequential(*layers), nn.Linear(*widths[-2:]), SoftmaxCe())
    for p in rule.parameters():
        nn.init.normal_(p, std=0.05)  # as trained weights nearly are, and uniform ones cannot be coded
    return rule


def _swapped(ranks: Ranks, packet: bytes) -> float:
    """Seconds that a packet takes which holds no weights."""
    begun = time.perf_counter()
    ranks.swap(packet, 60, len(packet))
    return time.perf_counter() - begun


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench links")
    parser.add_argument("links", nargs="*", help=f"of {', '.join(LINKS)}; by default all")
    parser.add_argument("--exchanges", type=int, help="of each network and form, from 1; by default 5 at 10Mbit, 9 on others")
    parser.add_argument("--keep", type=Path, metavar="RESULTS", help="the results folder that the lines are put into")
    found = parser.parse_args()
    if unknown := [one for one in found.links if one not in LINKS]:
        parser.error(f"no {unknown[0]!r}; there are {', '.join(LINKS)}")
    if found.exchanges is not None and found.exchanges < 1:
        parser.error("--exchanges: from 1")
    return found


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench links: stopped"))  # what it made is removed on its way out
    want = asked()
    own = max(loopback().bytes_per_s for _ in range(TRIES))  # what else runs on the machine only lessens it
    print(f"{'link':9} {'network':16} {'form':16} {'packet':>10} {'predicted':>9} {'measured':>9}  ratio   wanted 0.80 to 1.20")
    for rate in want.links or LINKS:
        if too_fast(rate, own):
            print(f"{rate:9} predicted only: this machine's loopback moves {own / 2**20:,.0f} MiB a second")
            continue
        try:
            rows = measure(rate, list(NETWORKS), list(FORMS), want.exchanges or EXCHANGES.get(rate, MANY))
            if want.keep is not None:
                keep(want.keep, rows, own)
        except EffdlError as error:
            sys.exit(f"bench links: {error}")
        for row in rows:
            taken = statistics.median(row["measured_s"])
            times = f"{row['packet_bytes']:>10,} {seconds(row['predicted_s']):>9} {seconds(taken):>9}"
            off = "" if link_table.holds(row) else "  off"
            print(
                f"{row['link']:9} {row['network']:16} {row['form']:16} {times}  {link_table.ratio(row):5.2f}{off}", flush=True
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["worker"]:
        result = _worker(*json.loads(sys.argv[2]))
        if distributed.get_rank() == 0:
            Path(sys.argv[3]).write_text(json.dumps(result))
        sys.stdout.flush()
        os._exit(0)  # not torn down one before the other
    main()
