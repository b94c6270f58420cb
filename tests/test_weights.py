"""Weights that a network starts from: the libraries' own outputs, what does not fit, and what a run's name depends on."""

import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import huggingface_hub
import pytest
import timm
import torch
import torchvision.models
from safetensors.torch import save_file
from test_library import arch, facts, raw
from torch import Tensor, nn

from effdl.archs.chain import BlockChain
from effdl.archs.library import Library
from effdl.archs.pixelnet import Pixelnet
from effdl.config import Spec, build, compose, dump, run_id
from effdl.errors import ConfigError
from effdl.records.carry import carry_out
from effdl.records.networks import load_network, network_bytes
from effdl.training.loop import reseed

FILES = {  # of the smaller networks, an ending each
    "shufflenet_v2_x0_5": "pth",
    "mobilenet_v2": "safetensors",
    "resnet18": "pth",
    "efficientnet_b0": "safetensors",
    "mobilevit_v2": "pth",
    "vit_tiny": "safetensors",
}


def library_network(name: str, classes: int = 10, seed: int = 3) -> nn.Module:
    """The library's own, at 64 pixels, with statistics that are not those it was made with."""
    reseed(seed)
    own = arch(name).name
    made: nn.Module
    if name == "vit_tiny":
        made = timm.create_model(own, num_classes=classes, img_size=64)
    elif name == "mobilevit_v2":
        made = timm.create_model(own, num_classes=classes)
    else:
        made = torchvision.models.get_model(own, num_classes=classes)
    for key, buffer in made.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.5)
    return made.eval()


def saved(tensors: dict[str, Tensor], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return str(path)


def started(name: str, weights: str, classes: int = 10, side: int = 64, **changes: Any) -> BlockChain:
    made, problem = arch(name, weights=weights, size=side, **changes), replace(facts(side), outputs=classes)
    made.check(problem)
    reseed(0)
    return made.build(problem).eval()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as error:
        call()
    assert "\n" not in str(error.value) and str(error.value).startswith("arch.weights")
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair[0] in ("mobilenet_v2", "resnet18") else [])
        for pair in FILES.items()
    ],
)
def test_weights_of_the_library_give_the_librarys_outputs(name: str, ending: str, tmp_path: Path) -> None:
    theirs = library_network(name)
    chain = started(name, saved(theirs.state_dict(), tmp_path / f"w.{ending}"))
    with torch.no_grad():
        x = chain.input(raw(2, 64))
        assert torch.equal(chain.head(chain.blocks(x)), theirs(x))
        drawn = arch(name, size=64).build(facts(64)).eval()
        assert not torch.equal(drawn.head(drawn.blocks(x)), theirs(x))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilevit_v2"])
def test_a_stem_for_small_images_takes_the_same_weights(name: str, tmp_path: Path) -> None:
    theirs = library_network(name)
    chain = started(name, saved(theirs.state_dict(), tmp_path / "w.pth"), side=32, stem="32")
    ours = [p for part in (chain.blocks, chain.head) for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs.parameters(), strict=True))


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "vit_tiny"])
def test_a_network_that_a_run_of_backprop_saved_is_gone_on_with(name: str, tmp_path: Path) -> None:
    reseed(5)
    before = arch(name, size=64).build(facts(64)).eval()
    before.input.mean.fill_(7)  # type: ignore[union-attr, operator]
    (tmp_path / "network.safetensors").write_bytes(network_bytes(before))
    chain = started(name, str(tmp_path / "network.safetensors"))
    with torch.no_grad():
        x = torch.rand(2, 3, 64, 64)
        assert torch.equal(chain.head(chain.blocks(x)), before.head(before.blocks(x)))
    assert not chain.input.mean.any()  # type: ignore[union-attr, operator]  # it is of the data that come now


@pytest.mark.parametrize("ours", [True, False])
def test_another_number_of_classes_is_refused_or_its_last_layer_drawn_anew_when_asked(ours: bool, tmp_path: Path) -> None:
    theirs = library_network("shufflenet_v2_x0_5", classes=7)
    file = saved(theirs.state_dict(), tmp_path / "w.pth")
    if ours:
        chain = arch("shufflenet_v2_x0_5", weights=file, size=64).build(replace(facts(64), outputs=7))
        (tmp_path / "n.safetensors").write_bytes(network_bytes(chain))
        file = str(tmp_path / "n.safetensors")
    assert refusal(lambda: started("shufflenet_v2_x0_5", file)) == (
        "arch.weights: weights of 7 classes, this data set has 10: arch.new_head=true draws the last layer anew"
    )
    chain, drawn = (
        started("shufflenet_v2_x0_5", file, new_head=True),
        started("shufflenet_v2_x0_5", file, classes=7, new_head=True),
    )
    assert chain.head(torch.zeros(1, 1024, 2, 2)).shape == (1, 10)
    for one in (chain, drawn):
        assert all(torch.equal(a, b) for a, b in zip(one.blocks.parameters(), list(theirs.parameters())[:-2], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn.head.parameters(), theirs.fc.parameters(), strict=True))  # type: ignore[union-attr]
    reseed(0)
    fresh = arch("shufflenet_v2_x0_5", size=64).build(facts(64))  # what it begins with depends on the seed alone
    assert all(torch.equal(a, b) for a, b in zip(chain.head.parameters(), fresh.head.parameters(), strict=True))


def misfits() -> list[Any]:
    def without(state: dict[str, Tensor]) -> None:
        del state["layer1.0.conv1.weight"]

    def more(state: dict[str, Tensor]) -> None:
        state["layer9.bias"] = torch.zeros(4, 2)

    def wider(state: dict[str, Tensor]) -> None:
        state["layer1.1.bn2.bias"] = torch.zeros(65)

    return [
        pytest.param(without, "layer1.0.conv1.weight [64, 64, 3, 3] is missing there", id="missing"),
        pytest.param(more, "layer9.bias [4, 2] is missing here", id="unexpected"),
        pytest.param(wider, "layer1.1.bn2.bias is [65] there and [64] here", id="mis-shaped"),
    ]


@pytest.mark.parametrize(("change", "says"), misfits())
def test_weights_that_do_not_fit_are_said_by_the_first_tensor(
    change: Callable[[dict[str, Tensor]], None], says: str, tmp_path: Path
) -> None:
    state = dict(library_network("resnet18").state_dict())
    change(state)
    said = refusal(lambda: started("resnet18", saved(state, tmp_path / "w.pth")))
    assert said == f"arch.weights: these are of another network than resnet18: {says}"


def test_weights_of_another_network_patch_or_image_size_are_refused(tmp_path: Path) -> None:
    file = saved(library_network("resnet18").state_dict(), tmp_path / "w.pth")
    assert "another network than resnet50: layer1.0.conv1.weight is [64, 64, 3, 3] there and [64, 64, 1, 1] here" in refusal(
        lambda: started("resnet50", file, classes=7)
    )
    file = saved(library_network("vit_tiny").state_dict(), tmp_path / "v.pth")
    assert "(image size 96, stem library): pos_embed is [1, 17, 192] there and [1, 37, 192] here" in refusal(
        lambda: started("vit_tiny", file, side=96)
    )
    assert "patch_embed.proj.weight is [192, 3, 16, 16] there and [192, 3, 8, 8] here" in refusal(
        lambda: started("vit_tiny", file, side=32, stem="96")
    )


def test_old_files_without_batch_counters_are_taken(tmp_path: Path) -> None:
    theirs = library_network("resnet18")
    state = {key: tensor for key, tensor in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    chain = started("resnet18", saved(state, tmp_path / "w.safetensors"))
    with torch.no_grad():
        x = chain.input(raw(2, 64))
        assert torch.equal(chain.head(chain.blocks(x)), theirs(x))


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    trap = Trap(tmp_path / "sprung")
    torch.save({"conv1.weight": trap}, tmp_path / "w.pth")
    (tmp_path / "w.pkl").write_bytes(pickle.dumps({"conv1.weight": trap}, protocol=2))
    for name in ("w.pth", "w.pkl"):
        assert "no state dict that loads without running code" in refusal(
            lambda name=name: started("resnet18", str(tmp_path / name))
        )  # type: ignore[misc]
    assert not trap.folder.exists()


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    assert "no file nowhere.pth; 'pretrained' stands for" in refusal(lambda: started("resnet18", "nowhere.pth"))
    torch.save({"epoch": 3, "model": {}}, tmp_path / "checkpoint.pth")
    assert "does not hold a network's tensors by name" in refusal(lambda: started("resnet18", str(tmp_path / "checkpoint.pth")))
    for name in ("cut.pth", "cut.safetensors"):
        (tmp_path / name).write_bytes(b"PK\3\4 and no more")
        assert "is damaged" in refusal(lambda name=name: started("resnet18", str(tmp_path / name)))  # type: ignore[misc]


def test_what_is_for_given_weights_is_refused_without_them() -> None:
    assert "new_head is for weights that are given" in refusal(lambda: arch("resnet18", new_head=True))
    known = arch("resnet18", weights_sha256="ab")  # as a ledger names them, which has no paths
    for use in (known.check, known.build):
        assert "give arch.weights too" in refusal(lambda use=use: use(facts(64)))  # type: ignore[misc]
    pixels = Pixelnet(weights_sha256="ab")
    assert "give arch.weights too" in refusal(lambda: pixels.build(facts(64)))


# Published weights, from a cache that the tests fill: they ask no network.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_published_weights_keep_their_last_layer_only_for_their_own_classes(cache: Path) -> None:
    theirs = library_network("shufflenet_v2_x0_5", classes=1000)
    saved(theirs.state_dict(), cache / "shufflenetv2_x0.5-f707e7126e.pth")
    whole = started("shufflenet_v2_x0_5", "pretrained", classes=1000)
    with torch.no_grad():
        x = whole.input(raw(2, 64))
        assert torch.equal(whole.head(whole.blocks(x)), theirs(x))
        chain = started("shufflenet_v2_x0_5", "pretrained")
        assert torch.equal(chain.blocks(x), whole.blocks(x)) and chain(raw(2, 64)).shape == (2, 10)


def test_published_weights_of_timm_come_from_its_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = library_network("mobilevit_v2", classes=1000)
    file = saved(theirs.state_dict(), cache / "model.safetensors")
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args: asked.append(args) or file)
    chain = started("mobilevit_v2", "pretrained", classes=1000)
    assert {*asked} == {("timm/mobilevitv2_100.cvnets_in1k", "model.safetensors")}
    with torch.no_grad():
        x = chain.input(raw(2, 64))
        assert torch.equal(chain.head(chain.blocks(x)), theirs(x))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_without_a_network_it_is_said_what_to_do(name: str, cache: Path) -> None:
    said = refusal(lambda: started(name, "pretrained"))
    assert "could not be fetched" in said and "no network" in said and "set arch.weights to the file" in said


# A run's name, and its record.


def test_a_runs_name_depends_on_what_the_file_holds_and_not_on_where_it_lies(tmp_path: Path) -> None:
    def name_of(weights: str | None, **changes: Any) -> str:
        return run_id(replace(spec, arch=Library(name="resnet18", weights=weights, **changes)), "data")

    spec: Spec = build(compose(["arch=resnet18"]))
    state = dict(library_network("resnet18").state_dict())
    file = saved(state, tmp_path / "w.safetensors")
    plain, first = name_of(None), name_of(file)
    assert plain == run_id(spec, "data")
    assert name_of(str(shutil.copy(file, tmp_path / "elsewhere.safetensors"))) == first != plain
    assert name_of(file, new_head=True) != first
    state["fc.bias"] = state["fc.bias"] + 1
    changed = Library(name="resnet18", weights=file)
    saved(state, tmp_path / "w.safetensors")
    assert name_of(file) not in (plain, first)
    assert run_id(replace(spec, arch=changed), "data") == first  # it asks for the file that there was
    assert "is not the file of arch.weights_sha256" in refusal(lambda: changed.check(facts(64)))


def test_a_run_from_given_weights_is_answered_and_loaded_without_their_file(tmp_path: Path) -> None:
    file = saved(library_network("shufflenet_v2_x0_5").state_dict(), tmp_path / "w.safetensors")
    quick = ["method=backprop", "method.epochs=1", "dataset.train_limit=100", "test_every=run", "arch=shufflenet_v2_x0_5"]
    spec = build(compose([*quick, f"arch.weights={file}"]))
    done = carry_out(spec, tmp_path)
    assert done["status"] == "finished"
    moved = shutil.move(file, tmp_path / "moved.safetensors")
    assert carry_out(build(compose([*quick, f"arch.weights={moved}"])), tmp_path) == done
    assert carry_out(build(dump(spec), checked=False), tmp_path) == done
    network = load_network(done["path"])
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
