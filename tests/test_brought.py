"""Networks as people bring them: other inputs than one tensor, pairs between layers, token ids, wrappers."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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
