"""Filters that go by neighbours, errors and losses: each against what it should choose by hand, and in runs."""

from typing import Any

import pytest
import tiny
import torch
from filtering import CASES, METHODS, fit, moment, noisy
from torch import Tensor, nn

from effdl.datasets.batch import Batch
from effdl.datasets.problem import Problem
from effdl.datasets.split import Samples
from effdl.filters import listed
from effdl.filters.condensed_neighbours import CondensedNeighbours
from effdl.filters.edited_neighbours import EditedNeighbours
from effdl.filters.el2n import El2n, el2n
from effdl.filters.filter import Filter
from effdl.filters.info_batch import InfoBatch
from effdl.filters.k_filter import KFilter
from effdl.filters.listed import with_least
from effdl.filters.loss_filter import LossFilter, highest
from effdl.filters.selective_backprop import SelectiveBackprop
from effdl.methods.backprop import Backprop
from effdl.methods.segmentwise import Segmentwise
from effdl.neighbours.k_filter import k_filter
from effdl.objectives.losses import SoftmaxCe
from effdl.records.run import Run
from effdl.training.decision_rule import DecisionRule
from effdl.training.loop import switch_mode
from effdl.training.optim import Sgd

Step = tuple[int, Batch, Tensor]  # blocks' address, batch, losses


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """What each step learned from."""
    taken: list[Step] = []
    descended = DecisionRule.descended

    def watched(self: DecisionRule, batch: Batch, epoch: int) -> Any:
        found, learned = descended(self, batch, epoch)
        taken.append((id(self), batch, learned.loss))
        return found, learned

    monkeypatch.setattr(DecisionRule, "descended", watched)
    return taken


def by_epochs(run: Run, steps: list[Step]) -> list[list[Step]]:
    """The steps of each epoch of each segment, as the run counted their samples; rehearsals, which came before, left out."""
    counts = [line["data/samples"] for line in run.lines if "train/loss" in line]
    taken, found = list(steps), []
    for count in reversed(counts):
        epoch: list[Step] = []
        while sum(len(batch) for _, batch, _ in epoch) < count:
            epoch.insert(0, taken.pop())
        assert sum(len(batch) for _, batch, _ in epoch) == count
        found.insert(0, epoch)
    return found


def indices(epoch: list[Step]) -> list[int]:
    return sorted(torch.cat([batch.index for _, batch, _ in epoch]).tolist())


# --- counts, shares and times


@pytest.mark.parametrize(("made", "name"), CASES, ids=str)
def test_samples_seen_share_and_time_are_those_of_a_hand_count(made: Filter, name: str, steps: list[Step]) -> None:
    problem = noisy()
    network, run = fit(made, METHODS[name], problem)
    epochs = by_epochs(run, steps)
    seen = [indices(epoch) for epoch in epochs]
    assert all(len(set(one)) == len(one) for one in seen)
    summary = run.summary(network, [])
    assert summary["data/train_samples"] == sum(map(len, seen))
    assert summary["filter/kept_share"] == pytest.approx(sum(map(len, seen)) / (len(seen) * 40))
    assert 0 < summary["filter/kept_share"] < 1
    assert summary["filter/segment_shares"] == pytest.approx(
        [sum(map(len, seen[i : i + 3])) / 120 for i in range(0, len(seen), 3)]
    )
    assert summary["filter/scope"] == made.scope
    assert summary["time/filter_s"] == run.times["filter"] > 0


def test_filtering_time_is_the_clocks_around_each_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def highest_and_late(loss: Tensor, count: int) -> Tensor:
        clock[0] += 5.0
        return highest(loss, count)

    monkeypatch.setattr("effdl.filters.loss_filter.highest", highest_and_late)
    run = Run(0, Sgd(lr=0.05), filter=LossFilter(by="own", chunk=16))
    monkeypatch.setattr(run.company, "now", lambda name: clock[0])
    Backprop(epochs=2).fit(noisy(), tiny.chain(), run)
    assert run.times["filter"] == 2 * 3 * 5.0  # chunks of 16, 16 and 8


# --- lists


@pytest.mark.parametrize("name", ["backprop", "segmentwise"])
def test_k_filter_before_training_keeps_the_list_of_the_library_in_every_epoch(name: str, steps: list[Step]) -> None:
    problem = noisy()
    _, run = fit(KFilter(k=2), METHODS[name], problem)
    wanted = k_filter(problem.train_tensors().x, problem.train_split.y, 2).tolist()
    assert 3 < len(wanted) < 40
    assert [indices(epoch) for epoch in by_epochs(run, steps)] == [wanted] * (9 if name == "segmentwise" else 3)
    assert {key: one.tolist() for key, one in run.lists.items()} == {"kept": wanted}


def test_k_filter_on_features_has_a_list_of_each_segment(steps: list[Step]) -> None:
    problem = noisy()
    network, run = fit(KFilter(k=2, space="features"), Segmentwise(epochs=2, choose="last"), problem)
    x = problem.train_tensors().x
    wanted = []
    with torch.no_grad():
        for i in range(3):
            below = nn.Sequential(network.input, *network[:i]).eval()  # type: ignore[attr-defined, index]
            wanted.append(k_filter(below(x), problem.train_split.y, 2).tolist())
    assert len(set(map(tuple, wanted))) > 1
    assert [one.tolist() for _, one in sorted(run.lists.items())] == wanted
    assert [indices(epoch) for epoch in by_epochs(run, steps)] == [one for one in wanted for _ in range(2)]


def test_k_filter_during_training_begins_late_goes_chunk_by_chunk_and_is_capped(steps: list[Step]) -> None:
    problem = noisy()
    _, run = fit(KFilter(k=2, when="during", chunk=16, start=1, least=0), Backprop(epochs=3), problem)
    epochs = by_epochs(run, steps)
    assert indices(epochs[0]) == list(range(40))
    for number in (1, 2):
        order = torch.cat([batch.index for batch in problem.train(number)])
        x, y = problem.train_tensors().x[order], problem.train_split.y[order]
        kept = torch.cat(
            [part[k_filter(a, b, 2, least=0)] for part, a, b in zip(*(t.split(16) for t in (order, x, y)), strict=True)]
        )
        assert torch.cat([batch.index for _, batch, _ in epochs[number]]).tolist() == kept.tolist()
    steps.clear()
    _, capped = fit(KFilter(k=1, when="during", chunk=40, drop_at_most=0.25), Backprop(epochs=1), tiny.problem())
    (epoch,) = by_epochs(capped, steps)
    assert len(indices(epoch)) == 30


def test_editing_and_condensing_agree_with_imbalanced_learn(steps: list[Step]) -> None:
    under = pytest.importorskip("imblearn.under_sampling")
    problem = noisy(60)
    x, y = problem.train_tensors().x.flatten(1).double().numpy(), problem.train_split.y.numpy()
    oracle = under.EditedNearestNeighbours(sampling_strategy="all", n_neighbors=3, kind_sel="mode").fit(x, y)
    oracle.fit_resample(x, y)
    _, run = fit(EditedNeighbours(), Backprop(epochs=1), problem)
    assert run.lists["kept"].tolist() == sorted(oracle.sample_indices_.tolist())
    _, run = fit(CondensedNeighbours(), Backprop(epochs=1), problem)
    store = run.lists["kept"].numpy()
    from sklearn.neighbors import KNeighborsClassifier

    assert 3 <= len(store) < 60
    assert (KNeighborsClassifier(1).fit(x[store], y[store]).predict(x) == y).all()  # Hart's property


def test_limit_k_of_the_largest_class_keeps_all_and_is_no_filter_bit_for_bit() -> None:
    results = []
    for made in (None, KFilter(k=14), KFilter(k=1000, when="during", chunk=16)):
        network, run = fit(made, Segmentwise(epochs=2, input_dropout=0.3), tiny.problem())
        results.append([network.state_dict(), [{k: v for k, v in e.items() if "time" not in k} for e in run.lines]])
    assert tiny.same(*results[:2]) and tiny.same(results[0], results[2])


def test_a_class_that_would_go_keeps_the_least_and_the_run_says_so(steps: list[Step]) -> None:
    y = torch.arange(40) % 2
    x = (y[:, None] * 100.0 + torch.rand(40, 36)).view(40, 1, 6, 6)
    problem = Problem(Samples(x, y), tiny.problem().val_split, SoftmaxCe(), outputs=3, batch_size=8)
    said: list[str] = []
    run = Run(0, Sgd(lr=0.01), filter=KFilter(k=3, least=4))
    run.say = said.append  # type: ignore[method-assign]
    Backprop(epochs=1).fit(problem, tiny.chain(), run)
    assert torch.bincount(y[run.lists["kept"]]).tolist() == [4, 4]
    assert len([text for text in said if "least = 4" in text and "\n" not in text]) == 1
    with pytest.warns(RuntimeWarning, match=r"fewer than filter.least = 2 samples would be left of 1 of 2 classes"):
        mask = with_least(torch.tensor([True, True, False, False]), torch.tensor([0, 0, 1, 1]), 2, torch.arange(4).flip(0))
    assert mask.tolist() == [True] * 4


def test_of_duplicates_the_lower_index_is_the_nearer(steps: list[Step]) -> None:
    x, y = torch.zeros(12, 1, 6, 6), torch.tensor([0, 0, 1, 2, 2, 2, 2, 2, 1, 1, 1, 1])
    x[3:8], x[8:] = 50.0, 90.0
    problem = Problem(Samples(x, y), tiny.problem().val_split, SoftmaxCe(), outputs=3, batch_size=4)
    _, run = fit(KFilter(k=1, least=0), Backprop(epochs=1), problem)
    assert run.lists["kept"].tolist() == [2]  # the nearest of 0 is 1, that of 1 and of 2 is 0
    _, run = fit(EditedNeighbours(k=1, least=0), Backprop(epochs=1), problem)
    assert run.lists["kept"].tolist() == [0, 1, *range(3, 12)]


def test_who_watches_is_told_how_many_are_kept_of_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(listed, "MANY", 40)
    for made in (KFilter(k=2), KFilter(k=2, space="features")):
        run = Run(0, Sgd(lr=0.05), filter=made)
        run.say = said.append  # type: ignore[method-assign]
        Segmentwise(epochs=1, partitions=2).fit(noisy(), tiny.chain(), run)
    count = len(k_filter(noisy().train_tensors().x, noisy().train_split.y, 2))
    first = next(text for text in said if text.startswith("filter"))
    assert first == "filter: choosing among 40 samples (inputs, whole set); training begins when that is done"
    told = [text for text in said if "samples are kept" in text]
    assert told[0] == f"filter: {count} of 40 samples are kept, {100 * count / 40:.3g}% (inputs, whole set)"
    assert [text[text.index("for segment") :][:13] for text in told[1:]] == ["for segment 1", "for segment 2"]


# --- losses and errors


def test_loss_filter_drops_exactly_those_of_lowest_loss_in_the_segment_below(steps: list[Step]) -> None:
    _, run = fit(LossFilter(drop=0.3, least=0), Segmentwise(epochs=2), noisy())
    epochs = by_epochs(run, steps)
    assert indices(epochs[0]) == indices(epochs[1]) == list(range(40))
    for segment, (came, left) in enumerate([(40, 28), (28, 20)], 1):  # 30% of 28 is 8.4, of which 8 go
        last = epochs[2 * segment - 1]
        loss = torch.cat([losses for _, _, losses in last])
        index = torch.cat([batch.index for _, batch, _ in last])
        assert len(index) == came
        dropped = {int(i) for _, i in sorted(zip(loss.tolist(), index.tolist(), strict=True))[: came - left]}
        for epoch in epochs[2 * segment : 2 * segment + 2]:
            assert set(indices(epoch)) == set(index.tolist()) - dropped


def test_loss_filter_between_segments_that_learn_at_once_goes_by_the_step_that_put_a_sample_out(steps: list[Step]) -> None:
    method = Segmentwise(epochs=2, partitions=2, together=True)
    network, run = fit(LossFilter(drop=0.25, chunk=16, start=1, least=0), method, noisy())
    lines = [(line["segment"], line["epoch"], line["data/samples"]) for line in run.lines if "train/loss" in line]
    assert lines == [(0, 0, 40), (1, 0, 40), (0, 1, 40), (1, 1, 30)]
    addresses = [address for address, _, _ in steps][-19:]  # two epochs of 5 and 5, and of 5 and 4
    low, high = addresses[0], next(a for a in addresses if a != addresses[0])
    below = [(batch, loss) for address, batch, loss in steps if address == low][-5:]
    above = [batch for address, batch, _ in steps if address == high][-4:]
    index, loss = torch.cat([b.index for b, _ in below]), torch.cat([one for _, one in below])
    kept = []
    for part, losses in zip(index.split(16), loss.split(16), strict=True):  # 16, 16, 8 of which 4, 4, 2 go
        kept += part[losses.argsort()[len(part) // 4 :].sort().values].tolist()
    assert torch.cat([batch.index for batch in above]).tolist() == kept
    assert run.summary(network, [])["filter/last_shares"] == [1.0, 0.75]


def test_loss_filter_keeps_the_least_of_each_class_in_each_chunk_and_says_so() -> None:
    loss, y = torch.tensor([1.0, 3, 2, 10, 11, 12]), torch.tensor([0, 0, 0, 1, 1, 1])
    for least, kept in ((0, [3, 4, 5]), (1, [1, 3, 4, 5]), (2, [1, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5])):
        said: list[str] = []
        at = moment(losses=lambda batch: batch.x, say=said.append)
        made = LossFilter(drop=0.5, by="own", least=least)
        assert made.choose(Batch(loss, y, torch.arange(6)), 0, torch.Generator(), at).index.tolist() == kept
        wanted = f"filter: fewer than filter.least = {least} samples would be left of 1 of 2 classes; so many of each are kept"
        assert [text.split(", or")[0] for text in said] == ([wanted] if least else [])
        passed = made.between(iter([Batch(loss, y, torch.arange(6), loss=loss)]), 8, at)
        assert [batch.index.tolist() for batch in passed] == [kept]


def test_what_chunks_have_to_say_is_said_once() -> None:
    y = torch.arange(40) % 2
    x = (y[:, None] * 100.0 + torch.rand(40, 36)).view(40, 1, 6, 6)
    problem, said = Problem(Samples(x, y), tiny.problem().val_split, SoftmaxCe(), outputs=3, batch_size=8), list[str]()
    run = Run(0, Sgd(lr=0.01), filter=KFilter(k=2, when="during", chunk=16))
    run.say = said.append  # type: ignore[method-assign]
    Backprop(epochs=3).fit(problem, tiny.chain(), run)
    told = [text for text in said if text.startswith("filter: k_filter: k = 2 leaves fewer than least = 1")]
    assert 0 < len(told) == len({*told}) <= 2 < 3 * 3  # of one class, or of both, in nine chunks


def test_of_equal_losses_the_earlier_go_first() -> None:
    assert highest(torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0]), 3).tolist() == [0, 3, 4]
    assert highest(torch.zeros(4), 0).tolist() == [] and highest(torch.zeros(4), 4).tolist() == [0, 1, 2, 3]


def test_el2n_is_the_norm_of_probabilities_less_the_class() -> None:
    outputs = torch.tensor([[0.0, 0.0], [torch.log(torch.tensor(3.0)), 0.0]], dtype=torch.float64)
    found = el2n(outputs, torch.tensor([0, 0]))  # p = (1/2, 1/2) and (3/4, 1/4)
    torch.testing.assert_close(found, torch.tensor([0.5**0.5, (2 / 16) ** 0.5], dtype=torch.float64))
    one = el2n(torch.tensor([[0.0]], dtype=torch.float64), torch.tensor([1]))
    torch.testing.assert_close(one, torch.tensor([0.5**0.5], dtype=torch.float64))


def test_el2n_keeps_the_largest_errors_of_the_network_as_it_was_after_its_epochs(steps: list[Step]) -> None:
    problem, model = noisy(), tiny.chain()
    seen: dict[str, Tensor] = {}

    def measured(self: El2n, at: Any) -> None:
        begin(self, at)
        if at.epoch == 1:
            restore = switch_mode(model, False)
            with torch.no_grad():
                seen["p"] = model(problem.train_tensors().x).softmax(1)
            restore()

    begin = El2n.begin
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(El2n, "begin", measured)
        run = Run(0, Sgd(lr=0.05), filter=El2n(epoch=1, share=0.4, least=0))
        run.expect = lambda costs, keep_bytes: None  # type: ignore[method-assign]
        Backprop(epochs=3).fit(problem, model, run)
    epochs = by_epochs(run, steps)
    assert indices(epochs[0]) == list(range(40))
    error = (seen["p"] - nn.functional.one_hot(problem.train_split.y, 3)).norm(dim=1)
    assert indices(epochs[1]) == indices(epochs[2]) == sorted(error.topk(16).indices.tolist())


def test_info_batch_leaves_out_below_the_mean_rescales_the_rest_and_keeps_the_expected_sum() -> None:
    made, loss = InfoBatch(prune=0.6, full=0.2), torch.tensor([1.0, 2.0, 3.0, 10.0, torch.nan])
    whole = Batch(loss, torch.zeros(5), torch.arange(5))
    total, draws, kept_fourth = torch.zeros(5), 4000, 0
    for seed in range(draws):
        at = moment(memory={"loss": loss}, generator=lambda seed=seed: torch.Generator().manual_seed(seed))
        made.begin(at)
        kept = made.choose(whole, 0, torch.Generator(), at)
        assert kept.scale is not None
        total[kept.index] += kept.scale
        kept_fourth += int(3 in kept.index)
        assert kept.scale[kept.index >= 3].eq(1).all() and kept.scale[kept.index < 3].allclose(torch.tensor(2.5))
    assert kept_fourth == draws and total[4] == draws  # above the mean of 4; and unknown
    torch.testing.assert_close(total / draws, torch.ones(5), atol=0.06, rtol=0)
    for epoch, filters in ((7, True), (8, False), (9, False)):
        at = moment(memory={"loss": loss}, epoch=epoch)
        made.begin(at)
        assert ("low" in at.memory) == filters
    first = moment()
    made.begin(first)
    assert made.choose(whole, 0, torch.Generator(), first) is whole


def test_a_scale_lengthens_the_step_where_a_weight_does_not() -> None:
    torch.manual_seed(0)
    blocks, decision = nn.Sequential(nn.Linear(4, 5)).double(), nn.Linear(5, 3).double()
    x, y, scale = torch.randn(6, 4).double(), torch.arange(6) % 3, torch.tensor([1.0, 2, 2, 1, 5, 1]).double()
    DecisionRule(blocks, decision, SoftmaxCe()).learn(Batch(x, y, torch.arange(6), scale=scale), 0)
    losses = nn.functional.cross_entropy(decision(blocks(x)), y, reduction="none")
    wanted = torch.autograd.grad(sum(s * one for s, one in zip(scale, losses, strict=True)) / 6, [*blocks.parameters()])
    torch.testing.assert_close([p.grad for p in blocks.parameters()], list(wanted))


def test_selective_backprop_keeps_by_the_share_of_last_losses_that_are_no_larger() -> None:
    loss = torch.tensor([1.0, 2.0, 3.0, 4.0])
    chunk = Batch(loss, torch.zeros(4), torch.arange(4))
    for beta in (1.0, 2.0):
        made, kept, draws = SelectiveBackprop(beta=beta, history=8), torch.zeros(4), 4000
        for seed in range(draws):
            at = moment(memory={"losses": torch.tensor([9.0, 9, 0, 0, 2, 2, 9, 9])}, losses=lambda batch: batch.x)
            kept[made.choose(chunk, 0, torch.Generator().manual_seed(seed), at).index] += 1
            assert at.memory["losses"].tolist() == [2, 2, 9, 9, 1, 2, 3, 4]
        share = torch.tensor([1, 4, 5, 6]) / 8  # of 2, 2, 9, 9, 1, 2, 3, 4
        torch.testing.assert_close(kept / draws, share**beta, atol=0.03, rtol=0)
