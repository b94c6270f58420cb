"""Gradients of torch's own data-parallel training as packets: what they lose is made up for, and they say what is damaged."""

import pickle
from pathlib import Path
from typing import Any

import hook_worker
import pytest
import torch
from hook_worker import KINDS, STEPS, slope
from test_ddp import launched
from torch import Tensor

from effdl.compression import HookState
from effdl.compression.sparse import largest, spread

Ended = list[dict[str, Any]]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return launched("hook_worker", tmp_path_factory.mktemp("hook"), 2)


def made_up_for(ended: Ended, kind: str) -> None:
    """What came out of all steps, and what is lost still, is the sum of all gradients."""
    names = [name for name, _ in hook_worker.network().named_parameters()]
    for i, name in enumerate(names):
        total = ended[0][kind]["total"][i].double()
        exact = torch.stack([_sum(rank, total.shape) for rank in range(len(ended))]).mean(0)
        lost = torch.stack([one[kind]["lost"][one[kind]["names"].index(name)].double() for one in ended]).mean(0)
        torch.testing.assert_close(total + lost, exact, rtol=0, atol=1e-3)
        last = torch.stack([slope(STEPS - 1, rank, total.shape) for rank in range(len(ended))]).abs().max()
        bins = 2 ** KINDS[kind]["bits"]
        if total.numel() < 256:
            assert not lost.any()
        elif "share" not in KINDS[kind]:  # at most half a bin of a packet that holds what the one before lost, too
            assert 0 < float(lost.abs().max()) <= float(2 * last / bins / (1 - 1 / bins)) / 2 + 1e-4


def _sum(rank: int, shape: torch.Size) -> Tensor:
    return torch.stack([slope(step, rank, shape).double() for step in range(STEPS)]).sum(0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_sent_in_100_steps_differs_from_the_gradients_by_one_steps_error(kind: str, ended: Ended) -> None:
    made_up_for(ended, kind)


def test_all_processes_get_the_same_gradients_for_fewer_bytes(ended: Ended) -> None:
    raw = STEPS * 4 * sum(p.numel() for p in hook_worker.network().parameters())
    for kind in KINDS:
        assert all(torch.equal(a, b) for a, b in zip(ended[0][kind]["total"], ended[1][kind]["total"], strict=True))
        assert ended[0][kind]["sent"] == ended[1][kind]["sent"]
    sent = {kind: ended[0][kind]["sent"] for kind in KINDS}
    assert max(sent["a twentieth"], sent["2 bits"]) < sent["8 bits"] < raw / 2  # such small tensors have much beside them


def test_training_is_nearly_that_of_exact_gradients_and_goes_on_from_a_pickled_state(ended: Ended) -> None:
    for one in ended:
        for plain, coded, again in zip(one["plain"], one["4 bits"], one["resumed"], strict=True):
            assert torch.equal(coded, again)
            assert not torch.equal(coded, plain) and float((coded - plain).abs().max()) < 0.02


def test_a_packet_damaged_on_its_way_is_said_in_backward(ended: Ended) -> None:
    for one in ended:
        assert "what rank 1 sent came damaged (packet: damaged, its checksum is of other bytes; have it" in one["damaged"]


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    found = launched("hook_worker", tmp_path, 4)
    for kind in KINDS:
        made_up_for(found, kind)


# --- the state by itself


def test_an_overflow_is_sent_and_forgotten() -> None:
    network = hook_worker.network()
    state = HookState(network, bits=8)
    gradients = {name: torch.randn(p.shape) for name, p in network.named_parameters()}
    gradients["0.weight"][3, 4] = float("inf")
    read = state.read(state.write(gradients), gradients)
    assert torch.equal(read["0.weight"], gradients["0.weight"]) and all(lost.isfinite().all() for lost in state.lost.values())


def test_a_state_of_another_network_is_refused() -> None:
    network, other = hook_worker.network(), torch.nn.Linear(2, 2)
    state = HookState(network)
    state.write({name: torch.randn(p.shape) for name, p in network.named_parameters()})
    with pytest.raises(ValueError, match=r"^the hook's state has 0\.bias, which the network has not$"):
        HookState(other).load_state_dict(state.state_dict())
    with pytest.raises(ValueError, match=r"state\.bind\(network\)$"):
        pickle.loads(pickle.dumps(state)).name(next(network.parameters()))
    for more in ({"share": 0.0}, {"bits": 31}, {"coder": "lzw"}):
        with pytest.raises(ValueError):
            HookState(network, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.001, 0.01, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1,), (7,), (30, 41)])
def test_the_largest_are_what_sorting_finds_and_stand_where_they_stood(share: float, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    places, values = largest(tensor, share)
    count = max(1, -(-round(share * 1000) * tensor.numel() // 1000))
    bound = tensor.abs().reshape(-1).sort(descending=True).values[count - 1]
    expected = torch.where(tensor.abs() >= bound, tensor, 0)
    assert len(values) == count and torch.equal(spread(places, values, tensor), expected)
    assert places.nbytes <= min(4 * count, -(-tensor.numel() // 8))


def test_places_that_there_are_none_of_are_refused() -> None:
    like, values = torch.zeros(10), torch.ones(1)
    for places in (torch.tensor([10]), torch.tensor([-1]), torch.tensor([1, 2]), torch.tensor([1], dtype=torch.uint8)):
        with pytest.raises(ValueError):
            spread(places, values, like)
