"""What is searched: the override grammar as Optuna's distributions, and configs of Hydra's own Optuna sweeper."""

from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from effdl.errors import ConfigError
from effdl.search import space
from effdl.search.carried import carried_over
from effdl.search.setting import Cmaes, Grid, Optuna, Random, Tpe


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("x=interval(0,1.5)", FloatDistribution(0.0, 1.5)),
        ("x=interval(1,8)", FloatDistribution(1.0, 8.0)),
        ("x=int(interval(1.0,8.0))", IntDistribution(1, 8)),
        ("x=tag(log,interval(1e-4,1))", FloatDistribution(1e-4, 1.0, log=True)),
        ("x=int(tag(log,interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("x=range(0,10,2)", IntDistribution(0, 10, step=2)),
        ("x=range(1,10,4)", IntDistribution(1, 9, step=4)),
        ("x=range(0.5,2.0,step=0.5)", FloatDistribution(0.5, 2.0, step=0.5)),
        ("x=range(0,0.9,0.3)", FloatDistribution(0.0, 0.9, step=0.3)),
        ("x=range(1e-3,0.0101,3e-3)", FloatDistribution(1e-3, 0.01, step=3e-3)),
        ("x=choice(a,b,a)", CategoricalDistribution(["a", "b"])),
        ("x=1,true,null", CategoricalDistribution(["1", "true", "null"])),
        ("x=choice([8],[16,16])", CategoricalDistribution(["[8]", "[16,16]"])),
        ("x=shuffle(range(0,3))", CategoricalDistribution(["0", "1", "2"])),
    ],
)
def test_the_grammar_of_hydras_optuna_sweeper_is_read(override: str, expected: Any) -> None:
    found, fixed = space.read([override, "y=3", "method=backprop"])
    assert found == {"x": expected} and fixed == ["y=3", "method=backprop"]
    assert space.read(["y=3"], {"x": override.removeprefix("x=")})[0] == {"x": expected}


def test_the_command_line_stands_before_params_whose_lists_are_choices() -> None:
    found, fixed = space.read(["x=3"], {"x": "interval(0,1)", "y": [1, True, None], "z": 0.1})
    assert found == {"y": CategoricalDistribution(["1", "true", "null"])} and fixed == ["z=0.1", "x=3"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x=3"], "nothing is searched"),
        (["x=glob(*)"], "x: x=glob.* names no values"),
        (["x=tag(log,interval(0,1.0))"], "x: a logarithm needs a low end above 0, not 0"),
        (["x=interval(2,1)"], r"x: its low end 2 lies above its high end 1; write interval\(1,2\)"),
    ],
)
def test_what_cannot_be_searched_is_said(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        space.read(arguments)


def test_values_become_overrides_that_hydra_reads_back() -> None:
    params = {"a": 1e-07, "b": 3, "c": True, "d": None, "e": "[16,16]"}
    assert space.shown(params) == ["a=1e-07", "b=3", "c=true", "d=null", "e=[16,16]"]
    assert space.shown({"a": 0.123456}, short=True) == ["a=0.1235"]


def test_a_grid_has_each_point_once_and_an_interval_has_none() -> None:
    found, _ = space.read(["a=range(1,5,2)", "b=range(0.0,1.0,0.5)", "c=x,y"])
    assert Grid().size(found) == 18
    tenths, _ = space.read(["a=range(0,0.9,0.3)"])
    assert Grid()._points("a", tenths["a"]) == [0.0, 0.3, 0.6, 0.9]
    with pytest.raises(ConfigError, match=r"a: an interval has no grid"):
        Grid().size(space.read(["a=interval(0,1.0)"])[0])
    with pytest.raises(ConfigError, match="over 100,000"):
        Grid().size(space.read(["a=range(1,1000)", "b=range(1,1000)"])[0])


OFFICIAL = {
    "sampler": {"_target_": "optuna.samplers.TPESampler", "seed": 7, "n_startup_trials": 4, "prior_weight": 1.0},
    "direction": "minimize",
    "n_trials": 9,
    "search_space": {
        "a": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "b": {"type": "float", "low": 0.0, "high": 0.9, "step": 0.3},
        "c": {"type": "int", "low": 1, "high": 64, "log": True},
        "d": {"type": "int", "low": 2, "high": 9},
        "e": {"type": "int", "low": 2, "high": 8, "step": 3},
        "f": {"type": "categorical", "choices": ["adam", "sgd", None]},
    },
    "params": {"g": "interval(0, 1)"},
}


def test_the_settings_of_hydras_optuna_sweeper_carry_over() -> None:
    found = Optuna(**{"sampler": Random(), **carried_over(OFFICIAL)})
    assert (found.sampler, found.seed, found.direction, found.n_trials) == (
        Tpe(n_startup_trials=4, multivariate=False),
        7,
        "minimize",
        9,
    )
    assert space.read([], found.params)[0] == {
        "a": FloatDistribution(1e-4, 1.0, log=True),
        "b": FloatDistribution(0.0, 0.9, step=0.3),
        "c": IntDistribution(1, 64, log=True),
        "d": IntDistribution(2, 9),
        "e": IntDistribution(2, 8, step=3),
        "f": CategoricalDistribution(["adam", "sgd", "null"]),
        "g": FloatDistribution(0.0, 1.0),
    }
    for theirs, ours in (("Random", Random()), ("CmaEs", Cmaes()), ("Grid", Grid())):
        sampler = carried_over({"sampler": {"_target_": f"optuna.samplers.{theirs}Sampler"}})["sampler"]
        assert sampler == ours
    assert carried_over({"n_jobs": 2, "sampler": None}) == {"n_jobs": 2}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sampler": {"_target_": "optuna.samplers.NSGAIISampler"}}, "sampler._target_: NSGAIISampler: not one of TPE"),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "prior_weight": 2.0}},
            "sampler.prior_weight: search",
        ),
        ({"sampler": {"_target_": "optuna.samplers.CmaEsSampler", "sigma0": -1.0}}, "sampler.sigma0: "),
        ({"direction": ["minimize", "maximize"]}, "direction: one score chooses"),
        ({"custom_search_space": "my.space"}, "custom_search_space: "),
        ({"search_space": {"a": {"type": "float", "low": 0.0}}}, "search_space.a: needs low and high"),
        ({"search_space": {"a": {"type": "word", "low": 0.0, "high": 1.0}}}, "search_space.a.type: float, int or categorical"),
        ({"search_space": {"a": 3}}, "search_space.a: "),
        ({"max_failure_rate": 2.0}, "max_failure_rate: "),
    ],
)
def test_what_does_not_carry_over_is_said(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=f"^hydra.sweeper.{told}"):
        carried_over(settings)
