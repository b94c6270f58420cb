"""Fake tensors, on which plans count: forms, storages and layouts are those of real ones, and no number is made."""

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from effdl import config
from effdl.costs.fake import Undrawn, fakes
from effdl.costs.memory import LiveStorages
from effdl.costs.rehearsal import Prefix
from effdl.datasets.digits import Digits
from effdl.datasets.problem import Problem
from effdl.datasets.toy import Sine
from effdl.training.hardware import Hardware


@pytest.mark.parametrize("dataset", [Digits(), Sine()])
def test_an_outline_has_the_form_of_the_data(dataset: Any) -> None:
    train, _ = dataset.load()
    with fakes():
        outline = Problem.outline(dataset.facts(), config.build_choice("objective", "softmax_ce"))
        batch = next(outline.train(0))
    assert (batch.x.dtype, tuple(batch.x.shape[1:])) == (train.x.dtype, tuple(train.x.shape[1:]))
    assert (batch.y.dtype, tuple(batch.y.shape[1:])) == (train.y.dtype, tuple(train.y.shape[1:]))
    assert (outline.num_train, outline.num_val) == (dataset.facts().train, dataset.facts().val)


def test_weights_that_autocast_has_cast_count_until_the_batch_is_through() -> None:
    chain, batch = tiny.chain().eval(), next(tiny.problem().train(0))

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    prefix = Prefix(batch, chain.input, *chain.blocks, autocast=autocast)
    live = LiveStorages()
    live.book([*chain.input.buffers(), *chain.blocks.parameters(), *chain.blocks.buffers()], "feednet")
    live.book(prefix.data, "activation")
    with torch.no_grad(), live, autocast():  # as Fed's features are made
        x = prefix.batch.x
        for module in (chain.input, *chain.blocks):
            x = module(x)
    assert prefix.feeding().peak == live.peak and x.dtype == torch.bfloat16


def test_an_operation_that_is_remembered_puts_out_what_it_put_out_first() -> None:
    a = fakes().convert(torch.zeros(4, 6))
    with fakes():
        for _ in range(2):
            view, whole = a.view(3, 8)[1:], a.t().contiguous()
            values, places = a.max(1)
            assert a.add_(1) is a and view.untyped_storage()._cdata == a.untyped_storage()._cdata
            assert (tuple(view.shape), view.storage_offset(), whole.stride()) == ((2, 8), 8, (4, 1))
            assert whole.untyped_storage().nbytes() == 96 and whole.untyped_storage()._cdata != a.untyped_storage()._cdata
            assert (values.dtype, places.dtype) == (torch.float32, torch.int64)
            left, right = a.split(2)
            assert left.untyped_storage()._cdata == right.untyped_storage()._cdata == a.untyped_storage()._cdata
            assert right.storage_offset() == 12


def normalised(x: Tensor, weight: Tensor | None, training: bool) -> list[Tensor | None]:
    """What batch normalisation and its backward pass put out."""
    running = torch.zeros(3), torch.ones(3)
    out, mean, rstd = torch.native_batch_norm(x, weight, weight, *running, training, 0.1, 1e-5)
    gradient, mask = out.sum().expand_as(out), [True, weight is not None, False]
    gradients = torch.ops.aten.native_batch_norm_backward(gradient, x, weight, *running, mean, rstd, training, 1e-5, mask)
    return [out, mean, rstd, *gradients]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_our_own_account_of_batch_normalisation_is_that_of_its_kernels(
    training: bool, dtype: torch.dtype, affine: bool, layout: torch.memory_format
) -> None:
    x, weight = torch.zeros(2, 3, 4, 5, dtype=dtype).to(memory_format=layout), torch.ones(3) if affine else None
    with fakes():
        fake = normalised(fakes().convert(x), None if weight is None else fakes().convert(weight), training)
    for ours, theirs in zip(fake, normalised(x, weight, training), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def test_a_copy_on_fake_tensors_shares_storages_as_the_original_does() -> None:
    module = nn.Linear(4, 4)
    module.register_buffer("part", module.weight.detach()[1:3])
    copied = fakes().copy(module)
    assert copied.part.untyped_storage()._cdata == copied.weight.untyped_storage()._cdata
    assert (tuple(copied.part.shape), copied.part.storage_offset()) == ((2, 4), 4)
    assert isinstance(copied.weight, nn.Parameter) and copied.weight.requires_grad and not copied.part.requires_grad
    assert copied.bias.untyped_storage()._cdata != copied.weight.untyped_storage()._cdata


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_tensors_are_placed_as_their_module_is(layout: Any) -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6), nn.Linear(6, 2)
    )
    hardware, here = Hardware(layout=layout), torch.device("cpu")
    one_by_one = [hardware.placed(p, here).stride() for p in module.parameters()]
    assert one_by_one == [p.stride() for p in hardware.place(module, here).parameters()]


def test_a_weight_that_is_not_drawn_is_not_reckoned_with_and_any_other_is() -> None:
    with Undrawn():
        weight, other = torch.zeros(3), torch.zeros(3)
        nn.init.trunc_normal_(weight)
        other.add_(1).mul_(2).clamp_(max=1.5)
    assert weight.eq(0).all() and other.eq(1.5).all()
