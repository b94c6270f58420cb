"""No tensor on the wrong device: the engine runs under a stand-in for a GPU that refuses what a GPU would, see `elsewhere`."""

from typing import Any

import pytest
import tiny
import torch
from elsewhere import ELSEWHERE, Elsewhere
from torch import Tensor, nn

from effdl.augment.standard import Standard
from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.filters.random_subset import RandomSubset
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.objectives.losses import LinearMse, SigmoidBce, SoftmaxCe, TanhMse
from effdl.probes.stable_rank import StableRank
from effdl.records.run import Run
from effdl.training.decision import DownConv
from effdl.training.hardware import Hardware
from effdl.training.loop import evaluate
from effdl.training.optim import Adamw, Sgd


def on_device(of: Problem, change: Any = None) -> Problem:
    moved = of.to(ELSEWHERE)
    moved.augment = change
    return moved


METHODS = [
    Backprop(epochs=2),
    Backprop(epochs=1, checkpoint="block", keep_features_mib=0),
    Segmentwise(epochs=2, input_dropout=0.3, gradient_dropout=0.3),
    Segmentwise(epochs=1, keep_features_mib=0, decision=DownConv(convs=2), segment_size=2),
]


OBJECTIVES = [SoftmaxCe(), SigmoidBce(), TanhMse(), LinearMse()]
BESIDE = [(Sgd(), Hardware(), None), (Adamw(), Hardware(layout="channels_last"), RandomSubset(share=0.5, chunk=16))]


@pytest.mark.parametrize("of", range(len(OBJECTIVES)), ids=lambda i: type(OBJECTIVES[i]).__name__)
@pytest.mark.parametrize(
    "by", range(len(METHODS)), ids=lambda i: f"{type(METHODS[i]).__name__}-{METHODS[i].keep_features_mib:g}"
)
def test_methods_learn_measure_and_choose_with_all_tensors_where_the_data_are(by: int, of: int) -> None:
    """Each method with each objective, and each of both with each of what stands beside them."""
    method, objective = METHODS[by], OBJECTIVES[of]
    optimizer, hardware, filter = BESIDE[(by + of) % 2]
    data = on_device(tiny.problem(objective, train=41))
    chain = hardware.place(tiny.chain(), ELSEWHERE)
    with Elsewhere() as mode:
        chain.input.fit(data.train_tensors().x)  # type: ignore[operator]
        run = Run(
            optimizer=optimizer,
            test=tiny.images(20, 3).to(ELSEWHERE),
            objective=objective,
            filter=filter,
            hardware=hardware,
            probes=(StableRank(),),
            test_every="segment",
        )
        network = method.fit(data, chain, run)
        summary = run.summary(network, data.val())
    assert mode.operations > 500
    assert {t.device for t in network.state_dict().values()} == {ELSEWHERE}
    assert "test/acc" in summary and summary["data/train_passes"] >= 1


@pytest.mark.parametrize("policy", ["cifar10", "svhn", None])
def test_augmentation_works_where_the_images_are(policy: Any) -> None:
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    change = Standard(auto_augment=policy, cutout=4).prepare(Samples(images, torch.zeros(64)))
    with Elsewhere() as mode:
        varied = change(images.to(ELSEWHERE), torch.Generator().manual_seed(0))
    assert varied.device == ELSEWHERE and varied.shape == images.shape and varied.dtype == torch.uint8 and mode.operations > 5


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(4, 3),
        lambda x: x.mul_(torch.ones(4, 3)),
        lambda x: x.gather(1, torch.zeros(4, 3, dtype=torch.long)),
        lambda x: nn.functional.linear(x, torch.ones(2, 3)),
        lambda x: torch.arange(4)[x.argmax(1)],
        lambda x: torch.where(torch.ones(4, 3, dtype=torch.bool), x, x),
        lambda x: evaluate(
            nn.Linear(3, 3).to(ELSEWHERE), [Batch(x, torch.zeros(4, dtype=torch.long), torch.arange(4))], SoftmaxCe()
        ),
    ],
)
def test_the_stand_in_refuses_what_a_gpu_refuses(mistake: Any) -> None:
    with Elsewhere(), pytest.raises(RuntimeError, match=r"is on the CPU|device"):
        mistake(torch.ones(4, 3, device=ELSEWHERE))


@pytest.mark.parametrize(
    "allowed", [lambda x: x * torch.tensor(2.0), lambda x: x[torch.arange(2)], lambda x: x.copy_(torch.ones(4, 3)), Tensor.cpu]
)
def test_and_takes_what_a_gpu_takes(allowed: Any) -> None:
    with Elsewhere():
        assert allowed(torch.ones(4, 3, device=ELSEWHERE)).shape[1] == 3
