"""Networks as people bring them: other inputs than one tensor, pairs between layers, token ids, wrappers."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command import run
from torch import Tensor, nn

from effdl import Backprop, BlockChain, InputBlock, Problem, Run, Samples, Segmentwise, Sgd, SoftmaxCe, evaluate
from effdl.errors import ConfigError
from effdl.training.loop import reseed


class Net(nn.Module):
    """Three linear layers; `forward` is what each kind below has its own way of."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def through(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class OfDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.through(batch["pixel_values"])


class OfPair(Net):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        x, mask = pair
        return self.through(x * mask)


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.through(x * mask)


class KeywordOnly(Net):
    def forward(self, x: Tensor, *, mask: Tensor) -> Tensor:
        return self.through(x * mask)


class ToDict(Net):
    """As transformers' models: the loss where labels are given, and the logits."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor | None]:
        return {"loss": None, "logits": self.through(x)}


class ToPair(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.through(x), x


class Wrapped(nn.Module):
    """What the errors advise."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class WithDict(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net({"pixel_values": x})


class WithPair(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net((x, 2.0))


class WithMask(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, mask=x > 0)


class Logits(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["logits"]


class First(Wrapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)[0]


# what is brought, words of the error, the wrapper that it advises
NOT_ONE_TENSOR: dict[str, tuple[nn.Module, str, type[Wrapped]]] = {
    "dict": (OfDict(), "OfDict takes a dict, of which it asks 'pixel_values', .* self.net({'pixel_values': x})`", WithDict),
    "pair": (OfPair(), "OfPair takes several tensors in one, of which it asks 0", WithPair),
    "mask": (Masked(), "Masked takes 2 inputs (x, mask), .* self.net(x, mask=...)`", WithMask),
    "keyword": (KeywordOnly(), "KeywordOnly takes 2 inputs (x, mask)", WithMask),
    "to dict": (ToDict(), "ToDict returns more than one tensor, a dict of loss, logits, .* self.net(x)['logits']`", Logits),
    "to pair": (ToPair(), "ToPair returns more than one tensor, .* self.net(x)[0]`", First),
}


@pytest.mark.parametrize("case", NOT_ONE_TENSOR)
def test_what_does_not_map_one_tensor_to_one_is_refused_with_advice_that_works(case: str) -> None:
    net, words, wrapper = NOT_ONE_TENSOR[case]
    with pytest.raises(ConfigError, match=re.escape(words).replace(re.escape(".*"), ".*")) as error:
        BlockChain.from_module(net)
    said = str(error.value)
    assert "\n" not in said and "'net.a'" in said
    wrapped, x = wrapper(net), torch.randn(4, 6)
    chain = BlockChain.from_module(wrapped, cuts=["net.a", "net.b"])
    assert chain.names == ["net_a", "net_b"] and torch.equal(chain(x), wrapped(x))


@pytest.mark.parametrize("net", [OfDict(), OfPair(), Masked(), ToDict()], ids=lambda net: type(net).__name__)
def test_a_wrapper_is_answered_with_cuts_that_can_be_pasted(net: nn.Module) -> None:
    wrapper = next(wrapper for one, _, wrapper in NOT_ONE_TENSOR.values() if type(one) is type(net))
    with pytest.raises(ConfigError, match=r"shows no place to cut.*cuts=\['net\.a', 'net\.b'\] gives 2 blocks") as error:
        BlockChain.from_module(wrapper(net))
    cuts: Any = eval(re.search(r"cuts=(\[.*?\])", str(error.value))[1])  # type: ignore[index]
    assert len(BlockChain.from_module(wrapper(net), cuts=cuts)) == 2


class Pairs(nn.Module):
    """Layers that return (h, state), as many do."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, h: Tensor) -> tuple[Tensor, None]:
            return F.relu(self.linear(h)), None

    def __init__(self, unpack: bool = False) -> None:
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(6, 8), nn.ModuleList(self.Layer() for _ in range(3)), nn.Linear(8, 3)
        self.unpack = unpack

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer in self.layers:
            if self.unpack:
                h, _ = layer(h)
            else:
                h = layer(h)[0]
        return self.last(h)


@pytest.mark.parametrize("cuts", [None, ["first", "layers.0", "layers.1", "layers.2"]])
@pytest.mark.parametrize("unpack", [False, True])
def test_layers_that_return_tuples_are_cut_after_what_is_taken_out_of_them(unpack: bool, cuts: list[str] | None) -> None:
    reseed(0)
    net, x = Pairs(unpack), torch.randn(5, 6)
    chain = BlockChain.from_module(net, cuts)
    assert chain.names == ["first", "layers_0", "layers_1", "layers_2"] and torch.equal(chain(x), net(x))
    assert chain.shapes((6,)) == [(8,)] * 4


class Through(nn.Module):
    """Layers that take pairs and return them: nothing in the forward pass tells."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, pair: tuple[Tensor, int]) -> tuple[Tensor, int]:
            return self.linear(pair[0]), pair[1] + 1

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = self.Layer(), self.Layer(), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a((x, 0)))[0])


def samples(x: Tensor) -> tuple[Samples, Samples]:
    y = torch.arange(len(x)) % 3
    return Samples(x[:32], y[:32]), Samples(x[32:], y[32:])


def fit(chain: BlockChain, x: Tensor, method: Any = None) -> nn.Module:
    problem = Problem(*samples(x), SoftmaxCe(), outputs=3, batch_size=8)
    return (method or Segmentwise(epochs=1)).fit(problem, chain, Run.in_memory(Sgd(lr=0.1)))


def test_a_tuple_that_no_forward_pass_shows_is_one_line_before_the_first_step() -> None:
    with pytest.raises(ConfigError, match=r"^arch: block 'a' puts out a tuple, and blocks pass a tensor on: end it"):
        fit(BlockChain.from_module(Through()), torch.randn(40, 6))
    assert fit(BlockChain.from_module(Through(), cuts=["b"]), torch.randn(40, 6)) is not None


def test_samples_of_another_shape_are_one_line_before_the_first_step() -> None:
    chain = BlockChain.from_module(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    with pytest.raises(
        ConfigError, match=r"^arch: block '0' does not take .* shape \[1, 2, 3\].*nn\.Flatten\(\) before it"
    ) as error:
        fit(chain, torch.randn(40, 1, 2, 3))
    assert "\n" not in str(error.value)
    chain.train()
    with pytest.raises(ConfigError):
        chain.shapes((1, 2, 3))
    assert all(module.training for module in chain.modules())  # as it was


class Tokens(nn.Module):
    def __init__(self, functional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(17, 8)
        self.mix, self.classes = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 3)
        self.functional = functional

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.embed.weight) if self.functional else self.embed(ids)
        return self.classes(self.mix(x).mean(1))


class Positions(nn.Module):
    """Embedding of ids and of their places, in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.places = nn.Embedding(17, 8), nn.Embedding(12, 8)

    def forward(self, ids: Tensor) -> Tensor:
        return self.ids(ids) + self.places(torch.arange(ids.shape[1]))


def nested() -> nn.Module:
    return nn.Sequential(Positions(), nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Flatten(), nn.Linear(96, 3))


NETS = {"embedding": Tokens, "functional": lambda: Tokens(True), "nested": nested}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_token_ids_reach_an_embedding_as_they_are(net: str, frame: bool, dtype: torch.dtype) -> None:
    reseed(0)
    ids = torch.randint(0, 17, (40, 12), generator=torch.Generator().manual_seed(0)).to(dtype)
    module, block = NETS[net](), InputBlock((12,)) if frame else None
    if block is not None:
        block.fit(ids)
    chain = BlockChain.from_module(module, input=block)
    if dtype == torch.uint8 and not frame:  # torch embeds no bytes
        with pytest.raises(ConfigError, match=r"block '.*' does not take what samples of shape \[12\] come to, uint8"):
            fit(chain, ids)
        return
    with torch.no_grad():
        assert torch.equal(chain(ids), module(ids.long()))
    before = [p.clone() for p in module.parameters()]
    network = fit(chain, ids)
    assert not all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert 0 <= evaluate(network, samples(ids)[1].batches(8), SoftmaxCe())["acc"] <= 1
    fit(chain, ids, Backprop(epochs=1))


def test_a_network_without_an_embedding_standardises_whole_numbers_as_ever() -> None:
    block, x = InputBlock((6,)), torch.randint(0, 9, (40, 6))
    block.fit(x)
    BlockChain.from_module(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)), input=block)
    assert block(x).mean().abs() < 1e-6 and not block.passes_ids


def test_ids_are_not_dropped() -> None:
    ids = torch.randint(0, 17, (40, 12))
    with pytest.raises(ConfigError, match=r"^method\.drop_raw_input: samples are ids"):
        fit(BlockChain.from_module(Tokens()), ids, Segmentwise(epochs=1, input_dropout=0.5))
    fit(BlockChain.from_module(Tokens()), ids, Segmentwise(epochs=1, input_dropout=0.5, drop_raw_input=False))


class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.through(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_answered_with_what_helps() -> None:
    with pytest.raises(ConfigError, match=r"Branching cannot be traced .*; give its parts to BlockChain\(blocks, head\)"):
        BlockChain.from_module(Branching(), cuts=["a"])
    outer = nn.Sequential(nn.Linear(6, 6), Branching(), nn.Linear(3, 3))
    with pytest.raises(ConfigError, match=r"cannot be traced .*; name fewer or shallower cuts"):
        BlockChain.from_module(outer, cuts=["0", "1.a"])
    assert BlockChain.from_module(outer, cuts=["0", "1"]).names == ["0", "1"]


# --- layers that do not take what comes


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
    fit(BlockChain.from_module(net), torch.randn(40, 1, 8, 8), Backprop(epochs=1))


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
