"""A plan counts on fake tensors, from the data's facts alone, what a run counts on its own: the same bytes."""

import re
from dataclasses import replace
from typing import Any

import pytest
import sampled
import torch
from torch import Tensor, nn

from effdl import config
from effdl.archs.adapt import InputBlock
from effdl.archs.chain import Arch, ArchFacts, BlockChain
from effdl.costs import rehearsal
from effdl.datasets.dataset import Facts
from effdl.datasets.digits import Digits
from effdl.datasets.problem import Problem
from effdl.methods.lazy import Lazy
from effdl.methods.method import Method
from effdl.methods.segmentwise import Segmentwise
from effdl.records import alternatives, plan
from effdl.records.report import size
from effdl.reproduce.planned import UNKEPT, cost_of_run
from effdl.setting import setting
from effdl.training.segments import Training

CLOSED = [name for name in config.choices("method") if config.build_choice("method", name).fits_least_squares]  # without steps
PARTITIONED = [name for name in config.choices("method") if getattr(config.build_choice("method", name), "partitions", None)]
LINEAR = [name for name in config.choices("method") if isinstance(config.build_choice("method", name), Lazy)]
FEWER = {
    **dict.fromkeys(PARTITIONED, ("method.partitions=2",)),  # of the blocks there are
    **dict.fromkeys(LINEAR, ("arch=mlp",)),  # as most of them ask for
}
SMALL = ("dataset.train_limit=60", "dataset.val_size=40", "dataset.batch_size=4")
CASES = {
    **{name: (f"method={name}", *FEWER.get(name, ())) for name in config.choices("method") if name not in CLOSED},
    "checkpointed": ("method=backprop", "method.checkpoint=block"),
    "fed": ("method.keep_features_mib=0",),
    "frozen convolutions": ("method=shallow",),
    "frozen convolutions, fed": ("method=shallow", "method.keep_features_mib=0"),
    "kept in part": ("method.keep_features_mib=0.15",),
    "augmented": ("augment=cutout", "augment.cutout=4"),
    "filtered": ("filter=random_subset",),
    "adamw": ("optimizer=adamw",),
    "adagrad": ("optimizer=adagrad",),
    "rmsprop": ("optimizer=rmsprop",),
    "recomputed in parts": ("method=dll", "method.checkpoint=parts", "arch=vgg13_bn"),
    "recomputed in parts, bf16": ("method=dll", "method.checkpoint=parts", "arch=vgg13_bn", "hardware.precision=bf16"),
    "recomputed by channels": ("method=dll", "method.checkpoint=channels", "arch=vgg13_bn"),
    "fed in parts": ("method=dll", "method.feed_parts=3", "method.keep_features_mib=0"),
    "within a budget": ("method=dll", "method.memory_budget=0.9"),
    "bf16": ("hardware.precision=bf16",),
    "bf16 normalised": ("hardware.precision=bf16", "method=backprop", "arch=vgg13_bn"),
    "bf16 fed": ("hardware.precision=bf16", "method.keep_features_mib=0"),
    "bf16 checkpointed": ("method=backprop", "method.checkpoint=block", "hardware.precision=bf16"),
    "channels last": ("hardware.layout=channels_last",),
    "mlp": ("arch=mlp",),
    "a robin on disk": ("method=random_robin", "method.offload=disk", "optimizer=adamw"),
    "fed from disk": ("method.keep_features_mib=0", "method.offload=disk"),
    "real targets": ("arch=mlp", "dataset=sine", "objective=linear_mse"),
    "labels of pixels": (
        *("dataset=garments", "dataset.side=32", "dataset.batch_size=4", "method=backprop", "arch=pixelnet", "arch.wide=8"),
        *("arch.widths=[4,4,4,4,4]", "arch.hidden=[8]", "arch.pixels=50"),
    ),
    "stochastic depth": ("arch=efficientnet_b0", "method=backprop"),
    "blocks of one form": ("arch=shufflenet_v2_x0_5",),
    "blocks of one form, dropped input": ("arch=efficientnet_b0", "method.input_dropout=0.5", "method.drop_raw_input=false"),
}


def spec(*overrides: str) -> config.Spec:
    chosen = [] if any(o.startswith("arch=") for o in overrides) else ["arch=cnn4"]
    return config.build(config.compose([*chosen, *SMALL, *overrides]))


def memory(notes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in notes.items() if key.startswith("memory/")}


def of_real_steps(asked: config.Spec) -> dict[str, Any]:
    """Each segment's own, those of one form too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "form_of", lambda *modules: None)
        return memory(plan._rehearse(asked, 1))


@pytest.mark.parametrize("case", CASES)
def test_fake_tensors_give_the_bytes_of_real_steps(case: str) -> None:
    asked = spec(*CASES[case])
    counted = memory(plan._count(asked, 1))
    assert counted == of_real_steps(asked) and counted["memory/resident_peak_bytes"] > 0
    assert memory(plan._count(asked, 1)) == counted  # from what it has learned


STEPS = [("backprop", "float32"), ("backprop", "bf16"), ("dll", "float32")]
OF_SAMPLES = [arch for arch in config.choices("arch") if "classes" in config.build_choice("arch", arch).takes]
EVERY = [(arch, *step) for arch in OF_SAMPLES for step in sampled.some(f"steps of {arch}", STEPS, 1)]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "method", "precision"), EVERY)
def test_fake_tensors_give_the_bytes_of_real_steps_on_every_network(arch: str, method: str, precision: str) -> None:
    asked = spec(f"arch={arch}", f"hardware.precision={precision}", f"method={method}")
    assert memory(plan._count(asked, 1)) == of_real_steps(asked)


def test_segments_of_one_form_are_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, tried = spec("arch=shufflenet_v2_x0_5"), []
    expected, count = of_real_steps(asked), rehearsal.Rehearsal._count
    monkeypatch.setattr(rehearsal.Rehearsal, "_count", lambda self: tried.append(1) or count(self))
    assert memory(plan._rehearse(asked, 1)) == expected
    assert len(tried) < len(expected["memory/segment_peak_bytes"]) == 16


def test_bytes_by_layer_are_those_that_a_run_writes_into_its_record(tmp_path: Any) -> None:
    from effdl.records.carry import carry_out

    asked = spec("method.epochs=1", "test_every=run")
    planned, summary = plan.cost(asked), carry_out(asked, tmp_path)["summary"]
    assert planned is not None
    recorded = {key: summary[key] for key in planned.to_json() if key in summary}
    assert len(recorded) >= 8 and recorded == {key: planned.to_json()[key] for key in recorded}


def test_a_plan_of_bytes_reads_no_data_and_measures_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Digits, "load", forbidden)
    found = plan.cost(spec("dataset.batch_size=50", "arch=vgg13_bn"))
    assert found is not None and found.seconds is None
    assert set(found.to_json()) >= {"memory/bf16_accounted_peak_bytes", "memory/backprop_checkpointed_peak_bytes"}
    assert not any(key.startswith("time/") for key in found.to_json())


@pytest.mark.parametrize("arch", [("arch=cnn4",), ("arch=mlp", "arch.hidden=[64,64]")])
def test_backprop_is_charged_what_one_segment_of_the_whole_network_is(arch: tuple[str, ...]) -> None:
    """The same network, head and step, by the baseline's own code and by the segmentwise method's: the same bytes."""
    costs = [
        plan.cost(spec(*arch, "dataset=digits", *method))
        for method in (("method=backprop",), ("method=segmentwise", "method.segment_size=99", "method/decision=linear"))
    ]
    assert costs[0] is not None and costs[1] is not None
    assert (costs[0].peak_bytes, costs[0].by_kind) == (costs[1].peak_bytes, costs[1].by_kind)


def test_rows_beside_are_full_backprop_and_checkpointing_each_in_bf16_too() -> None:
    rows = alternatives.alternatives(spec("filter=random_subset"))
    told = {
        name: (type(r.method).__name__, getattr(r.method, "checkpoint", None), r.hardware.precision) for name, r in rows.items()
    }
    assert told == {
        "backprop": ("Backprop", None, "float32"),
        "backprop_checkpointed": ("Backprop", "block", "float32"),
        "bf16_accounted": ("Segmentwise", None, "bf16"),
        "bf16_backprop": ("Backprop", None, "bf16"),
        "bf16_backprop_checkpointed": ("Backprop", "block", "bf16"),
    }
    found = plan.cost(spec("arch=vgg13_bn", "dataset.batch_size=50"))
    assert found is not None
    step = {name: held.step for name, held in found.beside.items()}
    assert step["backprop_checkpointed"] < found.backprop_bytes == step["backprop"]
    assert step["bf16_backprop"] < found.backprop_bytes and step["bf16_accounted"] < found.peak_bytes


def test_shares_are_of_full_backprops_own_plan_which_keeps_as_much_as_the_run() -> None:
    for kept in ("2048", "0"):
        found = plan.cost(spec(f"method.keep_features_mib={kept}"))
        whole = plan.cost(spec("method=backprop", f"method.keep_features_mib={kept}"))
        assert found is not None and whole is not None
        assert found.beside["backprop"] == (whole.peak_bytes, whole.resident_bytes)
        assert found.resident_share == found.resident_bytes / whole.resident_bytes
        assert whole.resident_share == whole.share == 1


def emptied(asked: config.Spec) -> config.Spec:
    """The same run with no outputs kept."""
    return replace(asked, method=replace(asked.method, keep_features_mib=0.0))


@pytest.mark.parametrize(
    "case", ["dll", "backprop", "kept in part", "augmented", "filtered", "bf16", "blocks of one form", "dll_regularized"]
)
def test_what_keeping_nothing_takes_is_what_a_plan_of_that_says(case: str) -> None:
    asked = spec(*CASES[case])
    kept, nothing = plan.cost(asked), plan.cost(emptied(asked))
    whole = plan.cost(emptied(alternatives.alternatives(asked)["backprop"]))
    assert kept is not None and nothing is not None and whole is not None
    assert kept.beside["unkept"] == (nothing.peak_bytes, nothing.resident_bytes)
    assert kept.beside["backprop_unkept"] == (whole.peak_bytes, whole.resident_bytes)
    assert "unkept" not in nothing.beside and "backprop_unkept" not in nothing.beside


def test_the_row_of_a_run_that_keeps_nothing_is_what_a_plan_of_that_says_to_the_percent() -> None:
    """Beside backprop that keeps nothing either; a run that keeps stands beside backprop that keeps as much."""
    asked = spec("dataset.train_limit=null", "dataset.batch_size=16")
    kept, nothing = plan.cost(asked), plan.cost(emptied(asked))
    assert kept is not None and nothing is not None
    assert kept.beside["backprop"].resident > 1.2 * kept.beside["backprop_unkept"].resident  # or nothing would tell them apart
    table, alone = (cost_of_run("x", cost).splitlines() for cost in (kept, nothing))
    rows = [line.split("method.keep_features_mib=0")[1].split() for line in table if line.startswith(UNKEPT)]
    (this,) = (re.sub(r"^this(, in segment \d+)?", "", line).split() for line in alone if line.startswith("this"))
    (full,) = (line.removeprefix("full backprop").split() for line in alone if line.startswith("full backprop"))
    assert rows == [this[:6], full[:6]] and full[5] == "100%"  # without the step in bf16
    assert sum("beside backprop that keeps nothing either" in line for line in table) == 1
    assert not any("keeps nothing either" in line for line in alone)


def test_parts_of_a_step_are_the_weights_below_those_that_train_and_what_a_batch_makes() -> None:
    asked = spec("arch=vgg13_bn")
    costs = [plan.cost(asked), plan.cost(replace(asked, dataset=replace(asked.dataset, batch_size=8)))]
    network = asked.arch.build(asked.dataset.facts())
    assert costs[0] is not None and costs[1] is not None
    parts, wider = (alternatives.of_step(cost.segments) for cost in costs)
    last = costs[0].segment_bytes.index(costs[0].peak_bytes)
    below = [network.input, *network[:last]]
    assert parts["below"] == sum(t.nbytes for module in below for t in (*module.parameters(), *module.buffers()))
    assert sum(parts.values()) == costs[0].peak_bytes
    assert (wider["below"], wider["weights"]) == (parts["below"], parts["weights"])
    assert 1.5 < wider["batch"] / parts["batch"] <= 2


SETTING = re.compile(r"[a-z][\w./]*=[\w.]+")
ADVISED = {  # overrides -> what most of the step is, and whether keeping nothing is advised, spoken of, or not even that
    "weights below": (("arch=vgg13_bn", "dataset.batch_size=20"), "weights of the layers below", "kept outputs save"),
    "a batch": (("dataset.train_limit=600", "dataset.batch_size=128"), "activations", "nothing kept saves"),
    "kept outputs": (("dataset.train_limit=1200", "dataset.batch_size=128"), "activations", "nothing kept saves"),
    "nothing kept": (
        ("dataset.train_limit=600", "dataset.batch_size=128", "method.keep_features_mib=0"),
        "activations",
        "silent",
    ),
    "decision block": (("method=dll_regularized", "arch=vgg13_bn"), "weights of what is being trained", "kept outputs save"),
    "pooled": (("arch=efficientnet_b0", "method=backprop"), "weights of what is being trained", "nothing kept saves"),
    "one batch": (("dataset.batch_size=2", "arch=mlp", "method=backprop"), "weights of what is being trained", "any"),
}


@pytest.mark.parametrize("case", ADVISED)
def test_what_a_plan_advises_is_right_when_it_is_planned_in_turn(case: str) -> None:
    overrides, most, keeping = ADVISED[case]
    found = plan.cost(spec(*overrides))
    assert found is not None
    advice = cost_of_run("", found).split("\n\n")[-1].splitlines()[:-1]
    assert most in advice[0] and len(advice) <= 2
    for advised in SETTING.findall(advice[0]):
        then = plan.cost(spec(*overrides, advised))
        assert then is not None and then.peak_bytes < found.peak_bytes and advice[0].endswith(f"{size(then.peak_bytes)}.")
    if keeping == "silent":
        assert len(advice) == 1 and "keep" not in " ".join(advice)
    elif keeping != "any":
        (line,) = advice[1:]
        assert SETTING.findall(line) == ["method.keep_features_mib=0"]
        then = plan.cost(spec(*overrides, "method.keep_features_mib=0"))
        assert then is not None and size(then.resident_bytes) in line
        assert (then.resident_bytes < found.resident_bytes) == (keeping == "nothing kept saves") == ("save memory" not in line)


def test_first_line_has_step_and_resident_and_says_what_no_plan_measures() -> None:
    found = plan.cost(spec("arch=vgg13_bn"))
    assert found is not None
    whole, line = found.beside["backprop"], cost_of_run("method=dll", found).splitlines()[0]
    for name, ours, theirs in (("step", found.peak_bytes, whole.step), ("resident", found.resident_bytes, whole.resident)):
        assert f"{name} {size(ours)}, {100 * ours / theirs:.0f}% of full backprop's {size(theirs)}" in line
    assert "process: not measured by a plan" in line and "memory/process_peak_bytes" in line


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "most"), [("vgg13_bn", 0.43), ("efficientnet_b0", 0.24), ("efficientnet_v2_s", 0.18)])
def test_issue_the_worst_segment_takes_a_small_part_of_backprops_memory(arch: str, most: float) -> None:
    # Plain decision block, batch 128, SGD with momentum, 32 pixels. The bare blocks alone: 0.417, 0.220, 0.165.
    found = plan.cost(spec(f"arch={arch}", "dataset.train_limit=256", "dataset.batch_size=128"))
    assert found is not None and most - 0.05 < found.share <= most


@setting
class Looks(Method):
    """Looks at numbers before it trains, which fake tensors have not."""

    def training(self, problem: Problem, model: BlockChain, run: Any) -> Training:
        assert problem.train_tensors().x.float().mean().item() > 0
        return Segmentwise(epochs=1).training(problem, model, run)

    def network(self, *_: Any) -> nn.Module:
        raise NotImplementedError


def test_a_method_that_looks_at_numbers_is_planned_by_real_steps() -> None:
    asked = replace(spec(), method=Looks())
    found, other = plan.cost(asked), plan.cost(spec())
    assert found is not None and other is not None and found.segment_bytes == other.segment_bytes


class Constant(nn.Module):
    """Adds a tensor that is neither weight nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.constant = nn.Linear(64, 10), torch.ones(10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x.flatten(1)) + self.constant
        return out


class Abroad(Constant):
    """Computes with NumPy on the way."""

    def forward(self, x: Tensor) -> Tensor:
        offset = float(x.detach().numpy().mean())
        out: Tensor = self.linear(x.flatten(1)) + offset
        return out


@setting
class Own(Arch):
    """A network as users write them."""

    kind: str = "Constant"

    def facts(self, problem: Facts) -> ArchFacts:
        return ArchFacts(1, 1)

    def build(self, problem: Facts) -> BlockChain:
        return BlockChain([globals()[self.kind]()], nn.Linear(10, 10), InputBlock(problem.input_shape))


@pytest.mark.parametrize("kind", ["Constant", "Abroad"])
def test_a_network_that_fake_tensors_cannot_follow_is_planned_by_real_steps(kind: str) -> None:
    asked = replace(spec(), arch=Own(kind=kind))
    assert memory(plan._count(asked, 1)) == memory(plan._rehearse(asked, 1))


def test_a_gpus_plan_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found, here = plan.cost(spec("hardware=gpu")), plan.cost(spec("hardware.precision=bf16", "hardware.layout=channels_last"))
    assert found is not None and here is not None and found.segment_bytes == here.segment_bytes
