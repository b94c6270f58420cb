"""Command lines with the mistakes that people make, drawn at random: each is answered by a run or by one line."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sampled
from command import run, run_here
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from omegaconf import DictConfig

from effdl import cli, commands, config
from effdl.records import plan
from effdl.search import outcome, search

LINES = {"fast": 40, "slow": 500}
PROCESSES = 20
KINDS = (0, 2, 3, 5)  # a run, or whose mistake it was: the user's, the data's, the machine's; 1 would be ours


def keys(node: DictConfig, above: str = "") -> Iterator[str]:
    for name in node:
        key = f"{above}{name}"
        yield key
        if isinstance(node[name], DictConfig):
            yield from keys(node[name], f"{key}.")


def mistyped(draw: Any, text: str) -> str:
    """A letter more, less, twice, or in another's place."""
    at = draw(st.integers(0, max(0, len(text) - 1)))
    how = draw(st.sampled_from(("as it is", "as it is", "less", "twice", "swapped", "other", "upper", "blank")))
    changes = {
        "less": text[:at] + text[at + 1 :],
        "twice": text[: at + 1] + text[at:],
        "swapped": text[:at] + text[at + 1 : at + 2] + text[at : at + 1] + text[at + 2 :],
        "other": text[:at] + draw(st.sampled_from("abz_.-/@0é")) + text[at + 1 :],
        "upper": text.upper(),
        "blank": text[:at] + " " + text[at:],
    }
    return changes.get(how, text)


GROUPS = {group: config.choices(group) for group in config.GROUPS}
KEYS = sorted({*keys(config.compose([])), *keys(config.compose(["search=optuna", "dataset=mnist"]))} - {"hydra"})
VALUES = (
    *(
        "",
        " ",
        "null",
        "true",
        "0",
        "1",
        "-1",
        "3",
        "0.5",
        "1e-3",
        "1e400",
        "nan",
        "-inf",
        "01",
        "1_000",
        "0x10",
        "1,5",
        "1.5.2",
    ),
    *("[]", "[1", "[1,2]", "1]", "{}", "{a:1}", "{a", "(1)", "'", '"', "'a", '"a"b', "a b", "a=b", "a:b", "=", "==3", ":3"),
    *("${x}", "${seed}", "${oc.env:NOT_SET}", "$HOME", "${", "???", "*", "glob(*)", "glob(d*)", "range(0,3)", "range(3)"),
    *("choice(1,2)", "choice()", "interval(0,1)", "tag(log,interval(1,2))", "sort(3,1)", "shuffle(1,2)", "str(1)", "float(x)"),
    *("0,1", "a,b", "1,", ",1", "~/x", "/dev/null", "..", "a/b", "\\", "#", "%", "@", "é", "\x1b[0m", "a\nb", "x" * 300, "!!"),
)
FLAGS = ("-m", "--multirun", "-c", "--cfg", "job", "--resolve", "-cn", "foo", "-p", "-x", "--epochs", "--epochs=3", "--", "-")
NAMED = (  # a config of one's own, as it is and as it is not; options of the other command
    *("--config-dir", "--config-name", "-cd", "--config-dir=mine", "--config-name=best", "--config-dir=none", "mine", "best"),
    *("mine/best.yaml", "mine/best", "best.yaml", "none/best.yaml", "--config-name=mine/best.yaml", "--config-name=space"),
    *("+best=found", "best=found", "+best=none", "+best=", "+best=found,none", "+best=mine/best/found.yaml", "~best"),
    *("--again", "--scale", "smoke", "--cell", "a=b", "--workers", "2", "--workers=0", "--json", "--results", "--time", "-h="),
)
SPACES = (
    *("search=optuna", "search=none", "search=optun", "search.n_trials=2", "search.n_trials=0", "search/sampler=grid"),
    *("hydra.sweeper.n_trials=2", "hydra.sweeper.n_trials=x", "hydra.sweeper.trials=2", "hydra.sweeper.max_failure_rate=2"),
    *("+hydra.sweeper.params={optimizer.lr: '0.1,1'}", "hydra.sweeper.params={optimizer.lr: '0.1,1'}", "hydra/sweeper=optuna"),
    *("optimizer.lr=interval(0.01,1)", "optimizer.lr=tag(log,interval(0,1))", "optimizer.lr=interval(1", "seed=interval(0,1)"),
    *(
        "method.epochs=range(1,3)",
        "method=choice(dll,backprop)",
        "method=glob(d*)",
        "optimizer.lr=glob(*)",
        "arch.hidden=[1],[2]",
    ),
)


@st.composite
def override(draw: Any) -> str:
    group = draw(st.sampled_from(sorted(GROUPS)))
    of_group = st.sampled_from(GROUPS[group] or ["none"])
    of_another = st.sampled_from([one for choices in GROUPS.values() for one in choices])
    key = draw(st.one_of(st.sampled_from(KEYS), st.just(group)))
    value = draw(st.one_of(of_group, of_another, st.sampled_from(VALUES))) if key == group else draw(st.sampled_from(VALUES))
    sign = draw(st.sampled_from(("=",) * 8 + (":", " = ", "", "==", "=,")))
    mark = draw(st.sampled_from(("",) * 8 + ("+", "++", "~", "@", " ")))
    if key in ("results", "logger"):  # where it may write, and whom it may ask
        key = "seed"
    return f"{mark}{mistyped(draw, key)}{sign}{mistyped(draw, value) if draw(st.booleans()) else value}"


RIGHT = ("method=backprop", "arch=mlp", "dataset=digits", "optimizer=adamw", "seed=0,1", "seed=3", "method.epochs=2", "-m")
OTHERS = st.sampled_from((*FLAGS, *NAMED, *SPACES))
PART = st.one_of(override(), st.sampled_from(RIGHT), override(), st.sampled_from(RIGHT), OTHERS, OTHERS)
LINE = st.lists(PART, min_size=1, max_size=4)
COMMANDS = ("run", "plan", "run", "plan", "explain", "report", "publish", "rum", "method=dll", "--json", "")
IDS = ("table-99.9", "figure", "methods", "method.epochs", "seed")
OF_EFFDL = st.tuples(
    st.sampled_from(COMMANDS), st.lists(st.one_of(PART, OTHERS, st.sampled_from(RIGHT), st.sampled_from(IDS)), max_size=4)
).map(lambda drawn: [drawn[0], *drawn[1]])


def check(line: list[str], code: int, err: str) -> None:
    told = f"{line}\n{err}"
    assert code in KINDS, told
    assert "should not happen" not in err and "Traceback" not in err, told
    lines = [one for one in err.splitlines() if one.strip() and not one.startswith("effdl: trying a few steps")]
    assert code == 0 or (len(lines) == 1 and lines[0].startswith("effdl: ")), told


TIERS = [pytest.param(tier, marks=pytest.mark.slow if tier == "slow" else ()) for tier in LINES]


@pytest.fixture
def idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with configs of one's own; whatever is asked for is looked at whole and not carried out."""
    for name, content in (("best", ""), ("space", "hydra: {sweeper: {n_trials: 2, params: {optimizer.lr: '1,2'}}}")):
        (tmp_path / "mine" / "best").mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(f"defaults: [config, _self_]\nmethod: {{epochs: 1}}\n{content}")
    (tmp_path / "mine" / "best" / "found.yaml").write_text("# @package _global_\nmethod: {epochs: 1}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_execute", lambda specs, composed: [{"status": "finished", "name": "one"} for _ in specs])
    monkeypatch.setattr(cli, "_set_aside", lambda composed: config.build(composed))
    monkeypatch.setattr(plan, "cost", lambda *_, **__: None)
    monkeypatch.setattr(search, "work_off", lambda trials, *_: trials.next())
    monkeypatch.setattr(outcome, "write", lambda *_: {"best": {}, "path": "results/searches/one"})
    monkeypatch.setattr(outcome, "text", lambda *_: "")
    return tmp_path


def answered(line: Any, tier: str, what: str, ask: Callable[[list[str]], int], capfd: pytest.CaptureFixture[str]) -> None:
    """Each of the lines that are drawn is answered by a run or by one line."""

    @seed(sampled.drawing(f"{what}, {tier}").getrandbits(32))
    @settings(
        max_examples=LINES[tier],
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(line)
    def is_answered(line: list[str]) -> None:
        code = ask(line)
        check(line, code, capfd.readouterr().err)

    is_answered()


@pytest.mark.parametrize("tier", TIERS)
def test_a_command_line_is_answered_by_a_run_or_by_one_line(tier: str, idle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    answered(LINE, tier, "command lines", lambda line: run_here(*line), capfd)
    assert not list(idle.rglob("multirun.yaml")), "a sweep that did not run leaves nothing"


@pytest.mark.parametrize("tier", TIERS)
def test_a_command_line_of_effdl_is_answered_as_well(tier: str, idle: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def ask(line: list[str]) -> int:
        with pytest.raises(SystemExit) as stopped:
            commands.main(line)
        return int(stopped.value.code or 0)

    answered(OF_EFFDL, tier, "command lines of effdl", ask, capfd)


@pytest.mark.slow
def test_twenty_of_them_as_processes(tmp_path: Path) -> None:
    drawn = random.Random(sampled.head())
    for _ in range(PROCESSES):
        line = [one for one in _drawn(drawn) if "\0" not in one]
        done = run(*line, "method=backprop", "arch=mlp", "method.epochs=1", "dataset.train_limit=-1", cwd=tmp_path)
        check(line, done.returncode, done.stderr)


def _drawn(source: random.Random) -> list[str]:
    """A line by the same grammar, outside of a test of hypothesis."""
    found: list[list[str]] = []

    @seed(source.getrandbits(32))
    @settings(max_examples=1, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), deadline=None)
    @given(LINE)
    def keep(line: list[str]) -> None:
        found.append(line)

    keep()
    return found[-1]
