import pytest
import torch
from torch import nn
from transport import Transport, displacement

from effdl.archs.chain import BlockChain
from effdl.methods.segmentwise import Segmentwise
from effdl.records.run import Run
from effdl.testing import chain, check_method, images, problem, same
from effdl.training.optim import Sgd


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.change = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        return x + self.change(x)


def residual(seed=0):
    torch.manual_seed(seed)
    return BlockChain([nn.Conv2d(1, 4, 1), Residual(), Residual()], nn.Identity(), chain().input)


def learned(method, network=residual):
    run = Run.in_memory(Sgd(lr=0.01))
    return method.fit(problem(), network(), run), [line["train/loss"] for line in run.lines]


def test_it_keeps_the_contract_of_all_methods():
    check_method(Transport(epochs=2), network=residual)


@pytest.mark.parametrize("network", [residual, chain])
def test_limit_without_a_penalty_it_is_layerwise_learning_bit_for_bit(network):
    (ours, losses), (theirs, their_losses) = (
        learned(method, network) for method in (Transport(epochs=3, penalty=0), Segmentwise(epochs=3))
    )
    assert losses == their_losses and same(ours.state_dict(), theirs.state_dict())


def moved(network):
    """The mean displacement of each residual block."""
    z, found = network.blocks[0](network.input(images(30, 7).x)), []
    for block in network.blocks[1:]:
        found.append(displacement(z, block(z)).mean().item())
        z = block(z)
    return found


def test_limit_the_greater_the_penalty_the_less_blocks_move_and_in_the_end_not_at_all():
    free, little, still = (moved(learned(Transport(epochs=30, penalty=p))[0]) for p in (0, 0.01, 1.0))
    for a, b, c in zip(free, little, still, strict=False):
        assert a > b > c and c < 1e-3 * a
