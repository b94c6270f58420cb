"""Classification models of torchvision and timm that nobody has listed: cut by themselves, the same outputs, plain words."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sampled
import timm
import torch
import torchvision.models
from command import run_here
from safetensors.torch import save_file
from test_library import facts, raw, steps
from torch import nn

from effdl import commands, config
from effdl.archs.adapt import InputBlock
from effdl.archs.library import NETWORKS, Library
from effdl.archs.vision import maker_of
from effdl.config import build, compose, dump, run_id
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.records import tracking
from effdl.records.carry import carry_out
from effdl.records.networks import load_network
from effdl.training.decision import Pool
from effdl.training.loop import reseed

# Drawn once: random.Random(26).sample(names, 20) from the 211 names, sorted, of torchvision 0.29.1 and timm 1.0.31 whose
# network has at most 6M weights for 10 classes.
DRAWN = ["convnextv2_atto", "cs3darknet_focus_s", "efficientnet_blur_b0", "efficientvit_m1", "fastvit_t8", "fbnetc_100"]
DRAWN += ["mobileone_s0", "mobileone_s1", "regnetx_004", "regnety_008", "resnet10t", "squeezenet1_0", "starnet_s2"]
DRAWN += ["swiftformer_xs", "test_efficientnet", "test_nfnet", "tf_efficientnet_lite2", "tf_mobilenetv3_large_075"]
DRAWN += ["tf_mobilenetv3_small_100", "tinynet_a"]
ODD = {  # what is peculiar
    "googlenet": "further heads while it trains",
    "regnet_y_400mf": "looks at its weights while it is made",
    "deit_tiny_distilled_patch16_224": "two last layers",
    "pit_ti_distilled_224": "stages pass pairs on",
    "swin_tiny_patch4_window7_224": "windows and maps of the images' size",
}
TOLD: dict[str, dict[str, Any]] = {  # of what the library must be told
    "googlenet": {"aux_logits": False, "init_weights": True},
    **{name: {"img_size": 32} for name in [*ODD, "efficientvit_m1"] if name.endswith(("224", "m1"))},
}
QUICK = ("resnet10t", "squeezenet1_0", "test_efficientnet", "regnetx_004", "test_nfnet")
OTHERS = sampled.some("any network", [name for name in [*DRAWN, *ODD] if name not in QUICK], 7)
EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]


def theirs(name: str) -> nn.Module:
    """The library's own, as a user makes it, drawn from the same seed."""
    reseed(0)
    if maker_of(name) == "torchvision":
        return torchvision.models.get_model(name, num_classes=10, **TOLD.get(name, {})).eval()
    return timm.create_model(name, num_classes=10, **TOLD.get(name, {})).eval()


@pytest.mark.parametrize("name", EACH)
def test_a_network_that_nobody_listed_is_cut_by_itself_and_computes_the_same(name: str) -> None:
    problem, made = facts(32), Library(name=name)
    made.check(problem)
    reseed(0)
    chain = made.build(problem).eval()
    original = theirs(name)
    with torch.no_grad():
        x = chain.input(raw(2))
        assert torch.equal(chain.head(chain.blocks(x)), original(x))
    assert name not in NETWORKS and len(chain) == made.facts(problem).blocks > 1
    parts = [{id(p) for p in part.parameters()} for part in (*chain.blocks, chain.head)]
    assert all(parts) and sum(map(len, parts)) == len(set().union(*parts))
    assert sum(p.numel() for p in chain.parameters()) == sum(p.numel() for p in original.parameters())
    assert name in ODD or sum(p.numel() for p in chain.parameters()) <= 6e6


@pytest.mark.parametrize("name", EACH)
def test_its_first_and_last_block_and_all_of_it_learn(name: str) -> None:
    reseed(0)
    chain = Library(name=name).build(facts(32))
    assert isinstance(chain.input, InputBlock)
    chain.input.fit(raw(64))
    shapes = chain.shapes((3, 32, 32))
    for i in (0, len(chain) - 1):
        steps(chain, i, i + 1, Pool().build(shapes[i], 10))
    steps(chain, 0, len(chain), chain.head)


@pytest.mark.parametrize("name", EACH)
def test_cuts_that_are_said_to_give_more_blocks_do(name: str) -> None:
    made, problem = Library(name=name), facts(32)
    if (said := made.remark(problem)) is None:
        assert made.facts(problem).blocks >= 6
        return
    if said.endswith("; no other cuts were found"):
        assert made.facts(problem).blocks < 4
        return
    found = re.fullmatch(rf"{name} has (\d+) blocks by itself(?:: no cut .*)?; arch\.cuts=\[(.*)\] makes (\d+) of it", said)
    assert found is not None and made.facts(problem).blocks == int(found[1]) < int(found[3])
    finer = replace(made, cuts=tuple(found[2].split(",")))
    finer.check(problem)
    assert finer.facts(problem).blocks == int(found[3]) and finer.remark(problem) is None


def test_a_vision_transformer_of_two_blocks_says_so_and_which_cuts_give_more() -> None:
    made, problem = Library(name="vit_b_32"), facts(32)
    assert made.facts(problem).blocks == 2
    said = made.remark(problem)
    assert said is not None and said.startswith("vit_b_32 has 2 blocks by itself; arch.cuts=[encoder.")
    assert all(f"encoder.layers.encoder_layer_{i}," in said for i in range(11)) and said.endswith("makes 13 of it")


def test_a_network_whose_values_go_around_every_cut_says_which_and_that_no_cuts_give_more() -> None:
    said = Library(name="coat_tiny").remark(facts(32))
    assert said is not None and said.startswith(
        "coat_tiny has 2 blocks by itself: no cut between patch_embed1 and serial_blocks1.0,"
    )
    assert "2 values cross it: patch_embed1, x.shape[0]; nor between" in said and said.endswith("no other cuts were found")


@pytest.mark.parametrize("name", ["resnet18", "regnetx_004"])
def test_cuts_that_are_named_are_taken_listed_or_not(name: str) -> None:
    cuts = {"resnet18": ("layer1", "layer2.0", "layer4"), "regnetx_004": ("s2", "s3.b1", "s3")}[name]
    made = Library(name=name, cuts=cuts)
    made.check(facts(32))
    chain = made.build(facts(32))
    assert chain.names == [cut.replace(".", "_") for cut in cuts] and made.facts(facts(32)).blocks == 3
    assert made.remark(facts(32)) is None and Library(name=name).facts(facts(32)).blocks != 3


@pytest.mark.parametrize("stem", ["arch.stem=32", "arch.stem='32'", "arch.stem=library"])
def test_a_stem_is_named_on_the_command_line_with_quotes_or_without(stem: str) -> None:
    spec = build(compose(["arch=efficientnet_b0", stem]))
    assert spec.arch.stem == stem.split("=")[1].strip("'")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"^arch\.stem: Input should be 'library', '96' or '32', got '?33'?$"):
        build(compose(["arch=efficientnet_b0", "arch.stem=33"]))


def test_a_stem_for_small_images_goes_with_other_cuts() -> None:
    chain = Library(name="resnet18", stem="32", cuts=("layer1", "layer4")).build(facts(32))
    assert chain.shapes((3, 32, 32)) == [(64, 32, 32), (512, 4, 4)]


REFUSED: dict[str, tuple[dict[str, Any], Facts, str]] = {
    "no such name": ({"name": "resnet19"}, facts(32), r"arch\.name: neither .* model 'resnet19'; the nearest are .*resnet18"),
    "nothing like it": ({"name": "xyzzy"}, facts(32), r"arch\.name: neither .* 'xyzzy'.*list_models\(\)"),
    "no classifier": ({"name": "fcn_resnet50"}, facts(32), r"arch\.name: neither torchvision nor timm"),
    "too small": ({"name": "ghostnetv2_100"}, facts(32), r"arch\.size: ghostnetv2_100 does not take .* 32×32 .*size=64 enl"),
    "not square": ({"name": "vit_b_32"}, Facts((3, 64, 32), "classes", 10, 9, 0, 9, 3), r"64×32 pixels .*; arch\.size=64 "),
    "channels": ({"name": "resnet10t"}, facts(32, channels=2), r"arch=resnet10t: takes images of 1 or 3 channels, not 2"),
    "vectors": ({"name": "resnet10t"}, Facts((20,), "classes", 2, 9, 0, 9, 3), r"arch: this network takes images.*arch=mlp"),
    "untraceable": (
        {"name": "crossvit_tiny_240"},
        facts(32),
        r"arch\.name=crossvit_tiny_240: .*control flow.*another arch\.name",
    ),
    "stem": ({"name": "resnet10t", "stem": "32"}, facts(32), r"arch\.stem: where resnet10t .* arch\.stem=library"),
    "no such cut": ({"name": "resnet10t", "cuts": ("layer1.9",)}, facts(32), r"arch\.cuts: no .* 'layer1\.9'.*layer1\.0"),
    "cuts out of order": ({"name": "resnet18", "cuts": ("layer2", "layer1")}, facts(32), r"arch\.cuts: .*out of order"),
    "pairs": (
        {"name": "pit_ti_distilled_224", "cuts": ("transformers.0", "transformers.1")},
        facts(32),
        r"arch\.cuts: transformers_0 puts out a tuple, and blocks pass a tensor on",
    ),
    "no cuts": ({"name": "resnet18", "cuts": ()}, facts(32), r"arch\.cuts: cuts is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_network_does_not_take_is_said_in_one_line(case: str) -> None:
    changes, problem, says = REFUSED[case]
    with pytest.raises(ConfigError, match=says) as error:
        Library(**changes).check(problem)
    assert "\n" not in str(error.value) and "from_module" not in str(error.value)
    if advice := re.search(r"arch\.size=(\d+) enlarges", str(error.value)):
        Library(**changes, size=int(advice[1])).check(problem)


def test_a_check_draws_nothing() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for name in ("test_nfnet", "regnet_y_400mf"):
        Library(name=name).check(facts(32, channels=1))
    assert torch.equal(torch.get_rng_state(), before)


def started(name: str, state: dict[str, Any], folder: Path, **changes: Any) -> tuple[nn.Module, Any]:
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, folder / "w.safetensors")
    made = Library(name=name, weights=str(folder / "w.safetensors"), **changes)
    made.check(facts(32))
    return made.build(facts(32)).eval(), made


def drawn_otherwise(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    return make().eval()


def test_weights_of_a_network_that_ends_in_a_convolution(tmp_path: Path) -> None:
    given = drawn_otherwise(lambda: torchvision.models.squeezenet1_1(num_classes=10))
    chain, _ = started("squeezenet1_1", given.state_dict(), tmp_path)
    with torch.no_grad():
        assert torch.equal(chain(raw(2)), given(chain.input(raw(2))))
    more = drawn_otherwise(lambda: torchvision.models.squeezenet1_1(num_classes=12))
    with pytest.raises(ConfigError, match=r"weights of 12 classes, this data set has 10: arch\.new_head=true"):
        started("squeezenet1_1", more.state_dict(), tmp_path)
    chain, _ = started("squeezenet1_1", more.state_dict(), tmp_path, new_head=True)
    same = [torch.equal(a, b) for a, b in zip(chain.blocks.parameters(), more.parameters(), strict=False)]
    assert all(same) and len(same) == len(list(more.parameters())) - 2 and chain(raw(2)).shape == (2, 10)


def test_weights_of_a_network_that_looks_at_its_own_while_it_is_made(tmp_path: Path) -> None:
    given = drawn_otherwise(lambda: torchvision.models.regnet_y_400mf(num_classes=10))
    chain, _ = started("regnet_y_400mf", given.state_dict(), tmp_path)
    with torch.no_grad():
        assert torch.equal(chain(raw(2)), given(chain.input(raw(2))))


@pytest.mark.slow
def test_weights_of_two_last_layers_and_of_heads_for_training_alone(tmp_path: Path) -> None:
    two = drawn_otherwise(lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=12, img_size=32))
    chain, _ = started("deit_tiny_distilled_patch16_224", two.state_dict(), tmp_path, new_head=True)
    assert chain(raw(2)).shape == (2, 10)
    assert sum(torch.equal(a, b) for a, b in zip(chain.parameters(), two.parameters(), strict=False)) > 0
    both = drawn_otherwise(lambda: torchvision.models.googlenet(num_classes=10, aux_logits=True, init_weights=True))
    assert any(name.startswith("aux1") for name in both.state_dict())
    chain, _ = started("googlenet", both.state_dict(), tmp_path)
    with torch.no_grad():
        assert torch.equal(chain(raw(2)), both(chain.input(raw(2))))


def test_a_run_of_a_name_that_nobody_listed_has_a_name_of_its_own() -> None:
    """And cuts are part of it, where they are not the default."""
    plain = ["arch=library", "arch.name=resnet10t", "dataset.val_size=200"]
    ids = [run_id(build(compose([*plain, *more])), "data") for more in ([], ["arch.cuts=null"], ["arch.cuts=[layer1,layer2]"])]
    assert ids[0] == ids[1] != ids[2]


def test_a_run_with_cuts_is_recorded_answered_and_loaded(tmp_path: Path) -> None:
    quick = ["method=dll", "method.epochs=1", "dataset.train_limit=100", "dataset.val_size=60", "test_every=run"]
    spec = build(compose([*quick, "arch=library", "arch.name=test_efficientnet", "arch.cuts=[blocks.0,blocks.3]"]))
    done = carry_out(spec, tmp_path)
    assert done["status"] == "finished" and len(done["summary"]["memory/segment_peak_bytes"]) == 2
    assert carry_out(build(dump(spec), checked=False), tmp_path) == done
    assert load_network(done["path"])(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_plan_names_the_blocks_and_a_run_says_which_cuts_give_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["method=dll", "arch=library", "arch.name=test_convnext", "dataset.train_limit=100"]
    with pytest.raises(SystemExit) as ended:
        commands.main(["plan", *overrides])
    lines = capfd.readouterr().out.splitlines()
    assert ended.value.code == 0 and lines[1] == "5 blocks: stem_0, stages_0, stages_1, stages_2, stages_3"
    assert lines[2].startswith("test_convnext has 5 blocks by itself; arch.cuts=[") and lines[2].endswith("] makes 13 of it")
    assert run_here(*overrides, "method.epochs=1", "test_every=run", "results=r") == 0
    assert capfd.readouterr().err.splitlines()[0] == f"effdl: {lines[2]}"


def test_what_comes_before_a_plan_and_a_run_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "QUIET_S", 0.02)
    monkeypatch.setattr(config, "build", lambda composed: (time.sleep(0.2), build(composed))[1])  # however fast it is here
    overrides = ["method=dll", "arch=library", "arch.name=test_mambaout", "dataset.train_limit=100"]
    with pytest.raises(SystemExit):
        commands.main(["plan", *overrides])
    told = capfd.readouterr().err
    assert re.search(r"^effdl: checking 2/4, .* left$", told, re.MULTILINE), told
    assert re.search(r"^effdl: counting \d/\d, .* left$", told, re.MULTILINE), told
    assert run_here(*overrides, "method.epochs=1", "test_every=run", "results=r") == 0
    assert re.search(r"^effdl: checking 1/2, .* left$", capfd.readouterr().err, re.MULTILINE)
