"""Where torch is another inside than our fake tensors know, its own stand in."""

from typing import Any

import pytest

from effdl import config
from effdl.costs import fake
from effdl.records import plan

SMALL = ("dataset.train_limit=60", "dataset.val_size=40", "dataset.batch_size=4")


@pytest.mark.parametrize("overrides", [("arch=cnn4", "method=dll"), ("arch=vgg13_bn", "method=backprop")])
def test_torchs_own_fake_tensors_stand_in_with_the_same_bytes(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = config.build(config.compose([*overrides, *SMALL]))
    ours = plan.cost(spec, rows=())

    def broken(*args: Any) -> Any:
        raise RuntimeError("a torch of which the inside is another")

    monkeypatch.setattr(fake._Recall, "call", broken)
    monkeypatch.setattr(plan, "_rehearse", broken)
    monkeypatch.setattr(plan, "_known", {})
    stock = plan.cost(spec, rows=())
    assert ours is not None and stock is not None and stock.to_json() == ours.to_json()
