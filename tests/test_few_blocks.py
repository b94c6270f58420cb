"""Networks that are cut by themselves into few blocks say how many, why, and which cuts give more."""

import re
from collections.abc import Callable

import pytest
import torch.nn.functional as F
from test_from_module import Dense, ResidualNet, UNet, digits, plain
from torch import Tensor, nn

from effdl import Backprop, BlockChain, InputBlock, Run, Sgd
from effdl.training.loop import evaluate, reseed


class Within(nn.Module):
    """A layer, a module of which nothing is shown, and a layer."""

    def __init__(self, inner: nn.Module, features: int = 10) -> None:
        super().__init__()
        self.stem, self.inner, self.last = nn.Conv2d(3, 3, 1), inner, nn.Linear(features, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.stem(x)))


class Plain(nn.Module):
    """Three layers, the last of them for classes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x)))).mean((2, 3))


REMARKS: dict[str, tuple[Callable[[], nn.Module], str | None]] = {
    "skips": (
        UNet,
        "UNet has 2 blocks by itself: no cut between down2 and middle, as 2 values cross it: down2, relu(down1); nor between 1 "
        "other pair of layers; no other cuts were found",
    ),
    "skips within": (
        lambda: nn.Sequential(nn.Linear(6, 6), Dense(), nn.Linear(6, 3)),
        "Sequential has 2 blocks by itself: no cut between 1.a and 1.b, as 2 values cross it: 1.a, 0; nor between 1 other pair "
        "of layers; no other cuts were found",
    ),
    "skips and cuts within": (
        lambda: Within(UNet()),
        "Within has 2 blocks by itself; cuts=['stem', 'inner.down1', 'inner.up1', ",
    ),
    "cuts within": (
        lambda: Within(Plain(), 4),
        "Within has 2 blocks by itself; cuts=['stem', 'inner.one', 'inner.two'] makes 3",
    ),
    "nothing in the way": (plain, "Sequential has 2 blocks by itself; no other cuts were found"),
    "four blocks": (ResidualNet, None),
}


@pytest.mark.parametrize("case", REMARKS)
def test_a_network_of_few_blocks_says_how_many_why_and_which_cuts_give_more(case: str) -> None:
    build, says = REMARKS[case]
    chain = BlockChain.from_module(build())
    said = chain.remark
    assert said is None if says is None else said is not None and said.startswith(says)
    if said is not None and (found := re.search(r"cuts=(\[.*\]) makes (\d+) of it", said)):
        finer = BlockChain.from_module(build(), eval(found[1]))
        assert len(finer) == int(found[2]) > len(chain) and finer.remark is None


def test_a_network_that_can_be_cut_nowhere_is_trained_whole_as_the_error_says() -> None:
    problem = digits()
    reseed(0)
    frame = InputBlock(problem.input_shape, channels=3)
    network = Backprop(epochs=3).fit(problem, BlockChain([UNet()], nn.Identity(), frame), Run.in_memory(Sgd(lr=0.1)))
    assert evaluate(network, problem.val(), problem.objective)["acc"] > 0.2
