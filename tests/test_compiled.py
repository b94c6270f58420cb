"""hardware.compile=true on networks with more blocks of one class than torch keeps forms of one function."""

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effdl import Backprop, BlockChain, Problem, Run, Samples, Segmentwise, Sgd, SoftmaxCe
from effdl.errors import HardwareError
from effdl.training.compiled import Compiled
from effdl.training.hardware import Hardware
from effdl.training.loop import reseed

BLOCKS = 10
METHODS = [
    pytest.param(Segmentwise(epochs=1, keep_features_mib=0), id="segmentwise"),
    pytest.param(Backprop(epochs=2, checkpoint="block"), id="backprop", marks=pytest.mark.slow),
]


def deep() -> BlockChain:
    """Blocks of one class, each of another width."""
    reseed(0)
    widths = [20 + i for i in range(BLOCKS + 1)]
    blocks = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
    return BlockChain(blocks, nn.Linear(widths[-1], 3))


def fit(chain: BlockChain, method: Any, hardware: Hardware) -> Run:
    x, y = torch.randn(50, 20, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 3
    problem = Problem(Samples(x[:36], y[:36]), Samples(x[36:], y[36:]), SoftmaxCe(), outputs=3, batch_size=8)
    run = Run.in_memory(Sgd(lr=0.05), hardware=hardware)
    method.fit(problem, chain, run)
    return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, ...]]:
    """How many graphs were made with tensors of each shape, with no code generated from them."""
    found, original = Counter[tuple[int, ...]](), torch.compile

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        found.update(tuple(one.shape) for one in inputs if isinstance(one, Tensor))
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function: original(function, backend=keep))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_block_is_compiled_and_few_times(
    method: Any, graphs: Counter[tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    """Whole batches and the last, as it learns, is measured and feeds: not anew for each of them and each block above."""
    chain = deep()
    run, plain = fit(chain, method, Hardware(compile=True)), fit(deep(), method, Hardware())
    made = [graphs[tuple(block[0].weight.shape)] for block in chain.blocks]  # type: ignore[index]
    assert len(made) == BLOCKS and min(made) >= 1 and max(made) <= 6
    assert "recompile_limit" not in caplog.text
    losses = [[line["train/loss"] for line in one.lines] for one in (run, plain)]
    assert len(losses[0]) >= 2
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-5, atol=1e-6)


class Changing(nn.Module):
    """A word of its own for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.word = "a"

    def forward(self, x: Tensor) -> Tensor:
        return x * len(self.word) if self.word.startswith("a") else x


def test_a_module_that_compiles_anew_at_each_step_is_said_and_not_called_plainly(graphs: Counter[tuple[int, ...]]) -> None:
    module = Changing()
    compiled = Compiled(module)

    def steps() -> None:
        for _ in range(12):
            compiled(torch.ones(2))
            module.word += "b"

    with pytest.raises(HardwareError, match=r"^hardware\.compile: Changing takes more than 8 forms.*hardware\.compile=false"):
        steps()
    assert torch._dynamo.config.fail_on_recompile_limit_hit is False  # as it was


def test_compiled_runs_have_names_of_their_own_and_all_others_keep_theirs() -> None:
    assert (Hardware().version(), Hardware(compile=True).version()) == (1, Hardware.numerics_version)


@pytest.mark.slow
def test_code_that_is_generated_for_a_deep_network_learns_the_same() -> None:
    plain, compiled = (
        fit(deep(), Segmentwise(epochs=1, keep_features_mib=0), Hardware(compile=way)).lines for way in (False, True)
    )
    losses = [[line["train/loss"] for line in lines] for lines in (plain, compiled)]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)
