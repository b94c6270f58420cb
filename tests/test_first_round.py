"""A robin's first round over layers that have not learned: as they are, by the statistics of each batch, or in order."""

import math
from typing import Any

import pytest
import tiny
import torch
from command import run
from torch import Tensor, nn

from effdl.archs.chain import ArchFacts
from effdl.datasets.batch import Batch
from effdl.errors import ConfigError
from effdl.methods.segmentwise import Segmentwise
from effdl.records.run import Run
from effdl.testing import check_method
from effdl.training.engine import Engine
from effdl.training.hardware import Hardware
from effdl.training.learner import Learner
from effdl.training.optim import Sgd
from effdl.training.orders import permuted
from effdl.training.untrained import OfBatch, normalises, of_batch

SGD = Sgd(lr=0.05, momentum=0.9)
BY_BATCH: dict[str, Any] = {"epochs": 1, "rounds": 3, "permute": True, "first_round": "batch_statistics"}


def test_it_is_training_mode_without_dropout_whose_statistics_stay_as_they_are() -> None:
    block = tiny.chain(dropout=0.0).blocks[0].eval()
    x = torch.randn(8, 1, 6, 6)
    before = tiny.copied(block)
    with torch.no_grad():
        found = OfBatch(block)(x)
        assert tiny.same(before, tiny.copied(block)) and not any(m.training for m in block.modules())
        convolved = block[0](x)
        mean, var = convolved.mean((0, 2, 3), keepdim=True), convolved.var((0, 2, 3), unbiased=False, keepdim=True)
        torch.testing.assert_close(found, ((convolved - mean) / (var + 1e-5).sqrt()).relu())
        assert torch.equal(found, block.train()(x)), "without dropout, what training mode puts out"
    dropping = tiny.chain(dropout=0.5).blocks[0].eval()
    assert torch.equal(OfBatch(dropping)(x), OfBatch(dropping)(x))
    assert torch.equal(OfBatch(dropping)(x[:1]), dropping(x[:1])), "one sample has no statistics"
    assert normalises(dropping) and not normalises(nn.Linear(2, 2)) and not normalises(nn.InstanceNorm2d(3))
    with pytest.raises(RuntimeError, match="within"), of_batch(dropping):
        raise RuntimeError("within")
    assert tiny.same(before.keys(), tiny.copied(dropping).keys())


class Fed:
    """Remembers what each segment was fed in each turn: its standard deviation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.turns: list[tuple[int, float]] = []
        self.inputs: list[Tensor] = []
        step, begin, end = Learner.step, Engine._begin, Engine._end

        def stepped(learner: Learner, batch: Batch) -> Batch:
            self.inputs.append(batch.x.detach().clone())
            return step(learner, batch)

        def begun(engine: Engine, place: int, resumed: bool) -> Any:
            self.inputs.clear()
            return begin(engine, place, resumed)

        def ended(engine: Engine, place: int, team: Any) -> None:
            self.turns.append((team[0].segment, torch.cat(self.inputs).std().item()))
            end(engine, place, team)

        monkeypatch.setattr(Learner, "step", stepped)
        monkeypatch.setattr(Engine, "_begin", begun)
        monkeypatch.setattr(Engine, "_end", ended)


@pytest.mark.parametrize(("seed", "keep_features_mib"), [(0, 0.0), (1, 100.0), (2, 0.0)])
def test_what_comes_of_an_untrained_layer_has_the_size_of_a_normalised_one_and_in_eval_mode_shrinks(
    seed: int, keep_features_mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, first, sizes = tiny.problem(seed=seed), permuted(seed, 3, 0), dict[str, dict[int, float]]()
    above = [i for at, i in enumerate(first) if i > 0 and i - 1 not in first[:at]]  # an untrained layer, and learn
    for how in ("eval", "batch_statistics"):
        fed = Fed(monkeypatch)
        method = Segmentwise(**{**BY_BATCH, "first_round": how}, keep_features_mib=keep_features_mib)
        method.fit(problem, tiny.chain(dropout=0.0), Run.in_memory(SGD))
        sizes[how] = dict(fed.turns[:3])
        monkeypatch.undo()
    assert above
    for i in above:
        of_relu = math.sqrt(1 / 2 - 1 / (2 * math.pi))  # the standard deviation of max(z, 0), z standard normal
        assert sizes["batch_statistics"][i] == pytest.approx(of_relu, abs=0.04)
        assert sizes["eval"][i] < 0.6 * of_relu


def test_no_network_is_chosen_by_batch_statistics_while_there_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    offers, end = list[tuple[bool, int | None, float]](), Engine._end

    def ended(engine: Engine, place: int, team: Any) -> None:
        untrained = any(isinstance(m, OfBatch) for m in engine._below(team[0].segment).modules)
        before = engine.best.segment
        team[0].learner.history[-1] = 1.0 - 0.01 * place  # the first would be best
        end(engine, place, team)
        offers.append((untrained, before, engine.best.score))

    monkeypatch.setattr(Engine, "_end", ended)
    run = Run.in_memory(SGD)
    Segmentwise(**BY_BATCH).fit(tiny.problem(), tiny.chain(), run)
    assert [untrained for untrained, *_ in offers].count(True) in (1, 2) and not any(one for one, *_ in offers[3:])
    best = -float("inf")
    for place, (untrained, _, score) in enumerate(offers):
        best = max(best, -float("inf") if untrained else 1.0 - 0.01 * place)
        assert score == best
    assert offers[0][0], "the first turn of this seed is of an upper segment"


def test_what_depends_on_the_batch_is_not_kept_and_trained_layers_are_kept_as_ever() -> None:
    run = Run.in_memory(SGD)
    Segmentwise(**BY_BATCH, keep_features_mib=100.0).fit(tiny.problem(), tiny.chain(), run)
    assert run.notes["memory/kept_features_bytes"] > 0


def test_the_contract_of_all_methods_holds() -> None:
    check_method(Segmentwise(**BY_BATCH))
    check_method(Segmentwise(**{**BY_BATCH, "first_round": "ordered"}))


def test_an_ordered_round_is_the_first_alone_and_the_others_are_what_they_were() -> None:
    orders = {}
    for how in ("eval", "ordered"):
        model, run = tiny.chain(), Run.in_memory(SGD)
        training = Segmentwise(**{**BY_BATCH, "first_round": how}).training(tiny.problem(), model, run)
        orders[how] = [turn.segment for turn in training.order]
    assert orders["ordered"][:3] == [0, 1, 2] != orders["eval"][:3]
    assert orders["ordered"][3:] == orders["eval"][3:]


def test_without_normalisation_or_with_trained_layers_alone_nothing_differs() -> None:
    def trained(**options: Any) -> dict[str, Tensor]:
        method = Segmentwise(**{**BY_BATCH, **options})
        return tiny.copied(method.fit(tiny.problem(), tiny.perceptron(hidden=(20, 20, 20)), Run.in_memory(SGD)))

    assert tiny.same(trained(), trained(first_round="eval"))


@pytest.mark.parametrize("options", [{"permute": False}, {"rounds": 1}])
@pytest.mark.parametrize("how", ["batch_statistics", "ordered"])
def test_where_no_layer_is_untrained_below_it_is_refused(how: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^method.first_round={how} is of rounds in a random order.*method.permute=true"):
        Segmentwise(**{**BY_BATCH, **options, "first_round": how}).check(tiny.problem().facts, ArchFacts(3, 1), Hardware())


@pytest.mark.slow
def test_another_word_is_one_line(tmp_path: Any) -> None:
    done = run("method=random_robin", "method.first_round=train", cwd=tmp_path)
    assert done.returncode == 2 and "method.first_round" in done.stderr and done.stderr.count("\n") == 1
