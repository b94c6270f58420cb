"""From a composed config to a Spec: build settings, check the combination."""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from effdl.config.composition import CHOSEN, chosen_by_hydra, compose
from effdl.config.groups import GROUPS, OF_A_RUN, choices, holder, plugin_folders
from effdl.config.mistakes import unbuildable
from effdl.config.moved import today, values_today
from effdl.errors import ConfigError, one_line

OF_RUNS = [name for name, group in GROUPS.items() if group.of_runs]
PLACES = ("results", "workers", "stack", *OF_RUNS)  # root keys that say where and how, not what
TEST_EVERY = ("epoch", "segment", "run")


@dataclass(frozen=True)
class Spec:
    """A validated config: everything that a run's numbers depend on, and its seed. It has a field for each of `OF_A_RUN`.

    test_every: how often networks under training are measured on the test split, for the record only.
    probe: by name, so that equal choices are equal Specs.
    stacked: whether it is trained as one of a stack (`records.stacking`), by which float32 rounds otherwise; None where that is
        open still: then a sweep settles it, and a lone run is not.
    chosen: group -> the choice by its name, for people, where that is known.
    """

    dataset: Any
    arch: Any
    objective: Any
    optimizer: Any
    method: Any
    hardware: Any
    logger: Any
    seed: int = 0
    test_every: str = "epoch"
    filter: Any = None
    probe: tuple[Any, ...] = ()
    augment: Any = None
    sync: Any = None
    stacked: bool | None = None
    chosen: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def draws(self) -> tuple[str, ...]:
        """What another seed of the run draws anew, in words; () where seeds differ by rounding alone."""
        beside = {"filter": "subsets of samples", "augment": "augmentation"}
        return (*self.method.draws, *self.dataset.draws, *(words for group, words in beside.items() if getattr(self, group)))

    def settings(self) -> dict[str, Any]:
        return {group: getattr(self, group) for group in OF_A_RUN}


def build(config: DictConfig | Mapping[str, Any], *, checked: bool = True) -> Spec:
    """Build and check every group; nothing but settings is made, no data are read. Raises ConfigError.

    checked: whether the choices go together, for which their data set must be there; else each only by itself.
    """
    plain: dict[str, Any] = dict(config)
    if isinstance(config, DictConfig):
        keys = [str(key) for key in config if key != "hydra"]
        ours = config if len(keys) == len(config) else OmegaConf.masked_copy(config, keys)
        plain = dict(OmegaConf.to_container(ours, resolve=True))  # type: ignore[arg-type]
        if "hydra" in config:  # of a sweep, whose runs Hydra composes
            plain[CHOSEN] = chosen_by_hydra(OmegaConf.select(config, "hydra.runtime.choices") or {})
    for key in PLACES:
        plain.pop(key, None)
    chosen = plain.pop(CHOSEN, {})
    known = {f.name for f in fields(Spec)} - {CHOSEN}
    if unknown := sorted(set(plain) - known):
        raise ConfigError(f"{unknown[0]}: unknown key; there are {', '.join(sorted(known))}")
    settings = {g: (_build_several if GROUPS[g].several else build_setting)(plain.get(g), g) for g in OF_A_RUN}
    seed, test_every = plain.get("seed", 0), plain.get("test_every", "epoch")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed: a whole number from 0, not {seed!r}")
    if test_every not in TEST_EVERY:
        raise ConfigError(f"test_every: one of {', '.join(TEST_EVERY)}, not {test_every!r}")
    stacked = plain.get("stacked")
    if stacked is not None and type(stacked) is not bool:
        raise ConfigError(f"stacked: true, false, or null for a sweep to settle, not {stacked!r}")
    spec = Spec(**settings, seed=seed, test_every=test_every, stacked=stacked, chosen=chosen)
    exact = spec.method.fits_least_squares
    spec = replace(spec, hardware=spec.hardware.resolved(spec.arch.gains_by_channels_last, exact))
    if checked:
        check(spec)
    return spec


def _build_several(nodes: Any, group: str) -> tuple[Any, ...]:
    """The choices of a group of which several may be chosen, each under its name, in the order of the names."""
    if nodes is not None and (not isinstance(nodes, Mapping) or "_target_" in nodes):
        raise ConfigError(f"{group}: {nodes!r} is no choice of {group}s by name, as {group}=[{','.join(choices(group))}] makes")
    built = {name: build_setting(node, group, f"{group}.{name}") for name, node in sorted((nodes or {}).items())}
    for name, made in built.items():
        if name != made.snake_name():  # which is the prefix of what it records
            raise ConfigError(f"{group}.{name}: {type(made).__name__} belongs under {group}.{made.snake_name()}")
    return tuple(built.values())


def build_setting(node: Any, group: str, key: str | None = None) -> Any:
    """One config node as the frozen object that its ``_target_`` names; errors name the full key."""
    dotted = key or group.replace("/", ".")
    if node is None:
        if GROUPS[group].may_be_none:
            return None
        raise ConfigError(f"{dotted}: needs a choice, see --help")
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{dotted}: {node!r} has no _target_; name a choice of the group ({', '.join(choices(group))})")
    cls = locate(str(node["_target_"]), dotted)
    base = locate(GROUPS[group].base.replace(":", "."), dotted)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{dotted}._target_: {node['_target_']} is no {base.__name__}, so it cannot be a choice of {group}")
    if said := unbuildable(cls, str(node["_target_"]), dotted, group):
        raise ConfigError(said)
    values = {
        key: build_setting(value, f"{group}/{key}") if f"{group}/{key}" in GROUPS else value
        for key, value in values_today(str(node["_target_"]), node).items()
        if key != "_target_"
    }
    try:
        return cls(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(_explain(first, dotted, [f.name for f in fields(cls)])) from None


def _explain(error: Mapping[str, Any], group: str, names: list[str]) -> str:
    """One pydantic error as a line with the key, what is allowed, and what was given."""
    path = [str(part) for part in error["loc"] if part in names or isinstance(part, int)]
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{group}.{error['loc'][0]}: unknown key; there are {', '.join(names)}"
    message = str(error["msg"]).removeprefix("Value error, ").replace("tuple", "list").replace("Tuple", "List")
    if not path:
        return message if message.startswith(group) else f"{group}: {message}"
    return f"{group}.{'.'.join(path)}: {message}, got {error['input']!r}"


def locate(target: str, where: str) -> Any:
    module, _, name = today(target).rpartition(".")
    if not module:
        raise ConfigError(
            f"{where}._target_: {target!r} names no module; a class is named as effdl.methods.backprop.Backprop is"
        )
    if module.startswith("effdl.") and hasattr(own := sys.modules.get(module), name):
        return getattr(own, name)  # of ours, and imported before
    plugin_folders()
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # a plugin's module may do anything
        raise ConfigError(f"{where}._target_: cannot import {target!r} ({one_line(error)})") from None


def check(spec: Spec) -> None:
    """Raise a ConfigError for a combination that cannot run; reads no images."""
    problem = spec.dataset.facts()
    if reason := _misfit(spec.objective, problem):
        fitting = [c for c in choices("objective") if not _misfit(build_choice("objective", c), problem)]
        raise ConfigError(
            f"objective: {type(spec.objective).__name__} {reason}; this data set needs one of {', '.join(fitting)}"
        )
    if spec.method.fits_least_squares and not spec.objective.is_least_squares:
        raise ConfigError(
            f"objective: {type(spec.method).__name__} fits by least squares, so it takes linear_mse, not "
            f"{type(spec.objective).__name__}"
        )
    name = type(spec.method).__name__
    if "optimizer" in spec.method.takes and spec.optimizer is None:
        raise ConfigError(f"optimizer: {name} needs one: {', '.join(c for c in choices('optimizer') if c != 'none')}")
    for group, chosen in spec.settings().items():
        if chosen and GROUPS[group].not_taken and group not in spec.method.takes:
            raise ConfigError(f"{group}: {name} {GROUPS[group].not_taken}")
    if problem.train < 1:
        raise ConfigError(f"dataset.val_size: {spec.dataset.val_size} leaves no training samples")
    if spec.dataset.batch_size > problem.train:
        raise ConfigError(f"dataset.batch_size: {spec.dataset.batch_size} is larger than the {problem.train} training samples")
    spec.hardware.check(problem)
    if spec.sync is not None:
        spec.sync.check(spec.hardware)
    if spec.hardware.processes > 1 and "processes" not in spec.method.takes:
        raise ConfigError(f"hardware.processes: {name} learns in one process")
    if spec.hardware.processes > 1 and spec.filter is not None and (spec.filter.sees != "index" or spec.filter.needs_moments):
        raise ConfigError(
            f"filter: {type(spec.filter).__name__} looks at features, of which each of {spec.hardware.processes} processes has "
            "a part; hardware.processes=1 or filter=none"
        )
    if spec.filter is not None:
        if spec.filter.needs_moments and problem.changes:
            raise ConfigError(
                f"filter: {type(spec.filter).__name__} knows samples by their place, and each epoch of this data set makes its "
                "own: filter=random_subset, or none"
            )
        spec.filter.check(problem)
    if spec.augment is not None:
        spec.augment.check(problem)
    if problem.targets == "pixels":
        _check_pixels(spec)
    spec.arch.check(problem)
    arch = spec.arch.facts(problem)
    spec.method.check(problem, arch, spec.hardware)
    for probe in spec.probe:
        probe.check(problem, arch)


def _check_pixels(spec: Spec) -> None:
    """Raise a ConfigError for what cannot be used where each pixel has a label."""
    here = "and here each pixel has a label"
    if not spec.method.takes_pixels:
        raise ConfigError(
            f"method: {type(spec.method).__name__} learns from outputs for whole images above single layers, {here}, which "
            "the head above all blocks finds: method=backprop"
        )
    if spec.augment is not None:
        raise ConfigError(
            f"augment: {type(spec.augment).__name__} would move images without their labels, {here}: augment=none"
        )
    if spec.filter is not None and (spec.filter.sees != "index" or spec.filter.needs_moments):
        raise ConfigError(f"filter: {type(spec.filter).__name__} looks at one target a sample, {here}: filter=none")
    if spec.probe:
        raise ConfigError(f"probe: {type(spec.probe[0]).__name__} looks at one output a sample, {here}: probe=none")


def _misfit(objective: Any, problem: Any) -> str | None:
    """Why an objective cannot have a problem's targets, None if it can."""
    if problem.targets not in objective.takes:
        return f"does not take targets that are {problem.targets}"
    if problem.outputs < objective.least_outputs:
        return f"needs {objective.least_outputs} outputs, one a class, where the sign of one tells two classes"
    ours, theirs = objective.target_range, problem.target_range
    if problem.targets == "vectors" and ours and theirs and not ours[0] <= theirs[0] <= theirs[1] <= ours[1]:
        return f"takes real targets in [{ours[0]:g}, {ours[1]:g}], not in [{theirs[0]:g}, {theirs[1]:g}]"
    return None


def build_choice(group: str, name: str) -> Any:
    """A choice of a group, all values as its YAML and the ones it builds on have them."""
    parents = [f"{group.split('/')[0]}={holder(group)[0]}"] if "/" in group else []
    node = OmegaConf.select(compose([*parents, f"{group}={name}"]), group.replace("/", "."))
    plain = None if node is None else OmegaConf.to_container(node)
    if GROUPS[group].several:
        return next(iter(_build_several(plain, group)), None)
    return build_setting(plain, group)
