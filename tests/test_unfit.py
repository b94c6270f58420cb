"""Layers that do not take what comes, and networks for batches of one size: named, with what helps, before the first step."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from command import run
from test_brought import fit
from torch import Tensor, nn

from effdl import Backprop, BlockChain
from effdl.errors import ConfigError


class Convs(nn.Module):
    """Two convolutions of 8×8 images and a linear layer; `to_rows` is what each kind has between them."""

    def __init__(self, features: int = 512, channels: int = 1) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.to_rows(F.relu(self.two(F.relu(self.one(x))))))

    def to_rows(self, x: Tensor) -> Tensor:
        return x


class Viewed(Convs):
    def to_rows(self, x: Tensor) -> Tensor:
        return x.view(32, -1)


class Reshaped(Convs):
    def to_rows(self, x: Tensor) -> Tensor:
        return torch.reshape(x, (48, 512))


class Sized(Convs):
    def to_rows(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)


class OfOneSize(nn.Module):
    """A block that puts a token before those of a batch of 16."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.inner = nn.Parameter(torch.zeros(1, 1, 6)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.cat([self.token.expand(16, -1, -1), x[:, None]], 1)).mean(1)


class Rows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(8, -1)


FLATTEN = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Linear(512, 6), nn.ReLU(), nn.Linear(6, 3))
SHRINKING = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 9), nn.Flatten())
HEAD = r"^arch: the head or decision block \w+ does not take what comes out of the blocks, float32 of shape \[8, 8, 8\]: "
LINEAR = r"its Linear\(in_features=512, out_features=3, bias=True\) "
UNFIT: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "no flattening": (
        Convs(),
        (1, 8, 8),
        HEAD + LINEAR + r"fails: nn\.Flatten\(\) before it makes them one row for each sample",
    ),
    "no flattening within": (
        FLATTEN,
        (1, 8, 8),
        r"^arch: block '2' .* shape \[8, 8, 8\]: its Linear\(.*nn\.Flatten\(\) before",
    ),
    "no pooling": (Convs(8), (1, 8, 9), r"\[8, 8, 9\]: .*AdaptiveAvgPool2d\(1\) and nn\.Flatten\(\) before"),
    "no flattening that is missed": (Convs(8), (1, 8, 8), r"gives outputs of the shape \[N, 8, 8, 3\].*nn\.Flatten\(\) makes"),
    "other features": (
        Sized(500),
        (1, 8, 8),
        r"gets float32 of shape \[512\]: it takes 500 features.*to be nn\.Linear\(512, 3\)",
    ),
    "neither": (Convs(500), (1, 8, 8), r"nn\.Flatten\(\) before it makes 512 of them: it takes 500 .*nn\.Linear\(512, 3\)"),
    "colours": (
        Sized(channels=3),
        (1, 8, 8),
        r"block 'one' .*it takes 3 channels, so .* made for 1, or InputBlock\(.*channels=3",
    ),
    "vectors": (Sized(), (64,), r"block 'one' .* shape \[64\]: .*takes samples of shape \[channels, 2 sides\]"),
    "too small": (SHRINKING, (1, 8, 8), r"its Conv2d\(8, 3.*Kernel size.*InputBlock\(\.\.\., size=\.\.\.\) enl"),
    "no input block": (
        Sized(),
        (1, 8, 8),
        r"block 'one' .*uint8.*: samples are uint8, of which input=InputBlock\(.*makes float",
    ),
    "view": (Viewed(), (1, 8, 8), HEAD + r"it takes batches of 32 samples alone, by view\(32, -1\) .*write x\.shape\[0\]"),
    "reshape": (Reshaped(), (1, 8, 8), HEAD + r"it takes batches of 48 samples alone, by reshape\(48, 512\) at its beginning"),
    "view in a module": (
        nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Sequential(Rows(), nn.Linear(512, 6)), nn.Linear(6, 3)),
        (1, 8, 8),
        r"^arch: block '0' does not take .* batches of 8 samples alone, by view\(8, -1\) in '1'",
    ),
    "token": (
        nn.Sequential(nn.Linear(4, 6), OfOneSize(), nn.Linear(6, 3)),
        (4,),
        r"^arch: block '1' does not take .* batches of 16 samples alone, by expand\(16, -1, -1\) .* in the place of 16",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_layer_that_does_not_take_what_comes_is_named_with_what_helps(case: str, capfd: pytest.CaptureFixture[str]) -> None:
    net, shape, says = UNFIT[case]
    x = torch.randn(40, *shape)
    with pytest.raises(ConfigError, match=says) as error:
        fit(BlockChain.from_module(net), x.byte() if case == "no input block" else x, Backprop(epochs=1))
    assert "\n" not in str(error.value) and capfd.readouterr().err == ""


@pytest.mark.parametrize("net", [Sized(), nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 3))])
def test_what_the_errors_advise_works(net: nn.Module) -> None:
    x = torch.randn(40, 1, 8, 8)
    outputs = fit(BlockChain.from_module(net), x, Backprop(epochs=1))(x)
    assert outputs.shape == (40, 3) and outputs.isfinite().all()


def brought(folder: Path, net: str, blocks: int) -> dict[str, str]:
    """A folder of a user's with a network as a choice, by its name."""
    (folder / "mine.py").write_text(MINE.format(net=net, blocks=blocks))
    (folder / "configs" / "arch").mkdir(parents=True)
    (folder / "configs" / "arch" / "mine.yaml").write_text("# Mine.\n_target_: mine.Mine\n")
    return {"EFFDL_PLUGINS": str(folder)}


MINE = """
from torch import nn
from effdl import BlockChain, InputBlock
from effdl.archs.chain import Arch, ArchFacts
from effdl.setting import setting

@setting
class Mine(Arch):
    def facts(self, problem):
        return ArchFacts({blocks}, least_size=1)

    def build(self, problem):
        return BlockChain.from_module(nn.Sequential({net}), input=InputBlock(problem.input_shape))
"""


def test_a_plan_of_a_network_that_does_not_fit_is_one_line_too(tmp_path: Path) -> None:
    more = brought(tmp_path, "nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Linear(512, 10)", 1)
    done = run("plan", "arch=mine", "method=backprop", cwd=tmp_path, script="effdl", **more)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "nn.Flatten() before it makes" in done.stderr


def test_a_run_of_ones_own_network_of_few_blocks_says_so(tmp_path: Path) -> None:
    more = brought(tmp_path, "nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)", 1)
    done = run("arch=mine", "method=backprop", "method.epochs=1", "dataset.train_limit=100", cwd=tmp_path, **more)
    said = "effdl: Sequential has 1 block by itself; no other cuts were found, so that layer-wise learning trains it whole"
    assert done.returncode == 0 and done.stderr.splitlines()[0] == said
