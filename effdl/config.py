"""From overrides to a Spec: compose with Hydra, build settings, check the combination, name the run."""

import hashlib
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pydantic import ValidationError

from effdl.errors import ConfigError, one_line
from effdl.setting import Setting

# A wheel's own, else the repository's; beside an installed package could stand anybody's folder of that name.
CONFIGS = next(p for p in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if p.is_dir())

# Group -> the class its choices must be: "module:Class", imported when a choice is built. Nested groups by their full path.
GROUPS = {
    "dataset": "effdl.datasets.problem:Dataset",
    "arch": "effdl.archs.chain:Arch",
    "objective": "effdl.objectives.objective:Objective",
    "optimizer": "effdl.training.optim:Optimizer",
    "optimizer/schedule": "effdl.training.optim:Schedule",
    "method": "effdl.methods.method:Method",
    "method/decision": "effdl.training.decision:Decision",
    "augment": "effdl.augment.augment:Augment",
    "filter": "effdl.filters.filter:Filter",
    "probe": "effdl.probes.probe:Probe",
    "hardware": "effdl.training.hardware:Hardware",
    "logger": "effdl.records.logger:Logger",
}
MAY_BE_NONE = {"optimizer", "optimizer/schedule", "method/decision", "augment", "filter", "logger"}
SEVERAL = {"probe"}  # of these any number may be chosen: {name: choice}, and a tuple in the Spec
NOT_IDENTITY = {"logger"}
LEFT_OUT_UNUSED = {
    "filter",
    "probe",
    "augment",
}  # groups that came after the first records, whose names must stay what they are
SWEEP = re.compile(r"(\[[^]]*\]|\{[^}]*\})|,.*")  # outside of brackets, what follows the first value
PLACES = ("results", "workers")  # root keys that say where and how, not what
TEST_EVERY = ("epoch", "segment", "run")


@dataclass(frozen=True)
class Spec:
    """A validated config: everything that a run's numbers depend on, and its seed.

    test_every: how often networks under training are measured on the test split, for the record only.
    probe: by name, so that equal choices are equal Specs.
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

    def settings(self) -> dict[str, Any]:
        return {group: getattr(self, group) for group in GROUPS if "/" not in group}


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed config for these overrides, as run.py's command line takes them. Raises ConfigError."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from yaml import YAMLError

    hydra, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
    hydra.clear()  # a launcher runs within Hydra's own initialisation
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra_compose("config", [*overrides, *search_path()])
    except HydraException as error:
        raise composition_error(error, overrides) from error
    except YAMLError as error:  # names its file
        raise ConfigError(one_line(error)) from error
    except ValueError as error:  # such as method=null
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    finally:
        hydra.hydra = running


def composition_error(error: BaseException, overrides: Sequence[str] = ()) -> ConfigError:
    """Hydra's several lines as one that keeps the key and what there is instead."""
    if missing := getattr(error, "missing_cfg_file", None):
        group, _, name = missing.rpartition("/")
        return ConfigError(f"{group}={name}: unknown choice; there are {', '.join(choices(group))}")
    lines = [line.strip() for line in (str(error) or str(error.__cause__)).splitlines() if line.strip()]
    noise = (
        "Check your defaults",
        "Config search path",
        "provider=",
        "Set the env",
        "See https",
        "object_type",
        "reference_type",
    )
    text = " ".join(line for line in lines if not line.startswith(noise))
    if match := re.match(r"In '(.+)/(.+?)': Could not override '(.+?)'", text):
        rivals = [o for o in overrides if o.startswith(f"{match[3].split('/')[0]}=")]
        return ConfigError(
            f"{match[1]}={match[2]}: chooses {match[3]}, which does not go with {' '.join(rivals) or 'the rest'}"
        )
    if match := re.match(r"Could not override '(.+?)'", text):
        return ConfigError(f"{match[1]}: unknown key; {_instead(match[1], overrides)}")
    if match := re.match(r"Ambiguous value for argument '(.+?)'", text):
        return ConfigError(f"{match[1]}: several values make a sweep, which needs -m; one list is written key=[a,b]")
    key = getattr(error, "override", None)
    return ConfigError(f"{key}: {text}" if key and key not in text else text)


def _instead(key: str, overrides: Sequence[str]) -> str:
    """What could stand in the place of an unknown key, given the other overrides (of a sweep, its first run)."""
    if "/" in key:
        return f"there are the groups {', '.join(GROUPS)}"
    others = [SWEEP.sub(r"\1", o) for o in overrides if "=" in o and o.partition("=")[0].lstrip("+") != key]
    parent = key.rpartition(".")[0]
    try:
        composed = compose(others)
        node = OmegaConf.select(composed, parent) if parent else composed
    except ConfigError:  # more than one is wrong
        node = None
    if not isinstance(node, DictConfig):
        return "--help lists the groups and their choices"
    return f"there are {', '.join(sorted(str(k) for k in node if k not in ('_target_', 'hydra')))}"


def build(config: DictConfig | Mapping[str, Any], *, checked: bool = True) -> Spec:
    """Build and check every group; nothing but settings is made, no data are read. Raises ConfigError.

    checked: whether the choices go together, for which their data set must be there; else each only by itself.
    """
    plain: dict[str, Any] = dict(config)
    if isinstance(config, DictConfig):
        ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        plain = dict(OmegaConf.to_container(ours, resolve=True))  # type: ignore[arg-type]
    for key in PLACES:
        plain.pop(key, None)
    known = {f.name for f in fields(Spec)}
    if unknown := sorted(set(plain) - known):
        raise ConfigError(f"{unknown[0]}: unknown key; there are {', '.join(sorted(known))}")
    settings = {g: (_build_several if g in SEVERAL else build_setting)(plain.get(g), g) for g in GROUPS if "/" not in g}
    seed, test_every = plain.get("seed", 0), plain.get("test_every", "epoch")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"seed: a whole number from 0, not {seed!r}")
    if test_every not in TEST_EVERY:
        raise ConfigError(f"test_every: one of {', '.join(TEST_EVERY)}, not {test_every!r}")
    spec = Spec(**settings, seed=seed, test_every=test_every)
    spec = replace(spec, hardware=spec.hardware.resolved(spec.arch.gains_by_channels_last))
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
        if group in MAY_BE_NONE:
            return None
        raise ConfigError(f"{dotted}: needs a choice, see --help")
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{dotted}: {node!r} has no _target_; name a choice of the group ({', '.join(choices(group))})")
    cls = _locate(str(node["_target_"]), dotted)
    base = _locate(GROUPS[group].replace(":", "."), dotted)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ConfigError(f"{dotted}._target_: {node['_target_']} is no {base.__name__}, so it cannot be a choice of {group}")
    values = {
        key: build_setting(value, f"{group}/{key}") if f"{group}/{key}" in GROUPS else value
        for key, value in node.items()
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


def _locate(target: str, where: str) -> Any:
    module, _, name = target.rpartition(".")
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
    if spec.method.takes_optimizer and spec.optimizer is None:
        raise ConfigError(
            f"optimizer: {type(spec.method).__name__} needs one: {', '.join(c for c in choices('optimizer') if c != 'none')}"
        )
    if spec.filter is not None and not spec.method.takes_filter:
        raise ConfigError(f"filter: {type(spec.method).__name__} trains on all samples, leave it out or say filter=none")
    if spec.probe and not spec.method.takes_probes:
        raise ConfigError(f"probe: {type(spec.method).__name__} has no epochs after which to measure, say probe=none")
    if not spec.method.takes_optimizer and spec.optimizer is not None:
        raise ConfigError(f"optimizer: {type(spec.method).__name__} uses none, leave it out or say optimizer=none")
    if problem.train < 1:
        raise ConfigError(f"dataset.val_size: {spec.dataset.val_size} leaves no training samples")
    if spec.dataset.batch_size > problem.train:
        raise ConfigError(f"dataset.batch_size: {spec.dataset.batch_size} is larger than the {problem.train} training samples")
    spec.hardware.check(problem)
    if spec.hardware.processes > 1 and not spec.method.takes_processes:
        raise ConfigError(f"hardware.processes: {type(spec.method).__name__} learns in one process")
    if spec.hardware.processes > 1 and spec.filter is not None and spec.filter.sees != "index":
        raise ConfigError(
            f"filter: {type(spec.filter).__name__} looks at features, of which each of {spec.hardware.processes} processes has "
            "a part; hardware.processes=1 or filter=none"
        )
    if spec.filter is not None:
        spec.filter.check(problem)
    if spec.augment is not None:
        spec.augment.check(problem)
    spec.arch.check(problem)
    spec.method.check(problem, spec.arch.facts(problem), spec.hardware)


def _misfit(objective: Any, problem: Any) -> str | None:
    """Why an objective cannot have a problem's targets, None if it can."""
    if problem.targets not in objective.takes:
        return f"does not take targets that are {problem.targets}"
    ours, theirs = objective.target_range, problem.target_range
    if problem.targets == "vectors" and ours and theirs and not ours[0] <= theirs[0] <= theirs[1] <= ours[1]:
        return f"takes real targets in [{ours[0]:g}, {ours[1]:g}], not in [{theirs[0]:g}, {theirs[1]:g}]"
    return None


def choices(group: str) -> list[str]:
    """Names of a group's YAMLs, plugins' too. Raises ConfigError."""
    return sorted(path.stem for folder in _config_folders() for path in (folder / group).glob("*.yaml"))


def config_file(group: str, name: str) -> Path:
    """The YAML of a choice. Raises ConfigError."""
    for folder in _config_folders():
        if (path := folder / group / f"{name}.yaml").is_file():
            return path
    raise ConfigError(f"{group}={name}: unknown choice; there are {', '.join(choices(group))}")


def plugin_folders() -> list[Path]:
    """The folders that EFFDL_PLUGINS names, from now on importable from.

    Each holds choices as ours lie, configs/<group>/<name>.yaml, and the modules of their classes. Raises ConfigError.
    """
    folders = [Path(name).resolve() for name in os.environ.get("EFFDL_PLUGINS", "").split(os.pathsep) if name]
    for folder in folders:
        if not (folder / "configs").is_dir():
            raise ConfigError(f"EFFDL_PLUGINS: {folder} is not a folder with configs/<group>/<name>.yaml")
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # last: a plugin's module stands for no other; workers get the path with their job
    return folders


def _config_folders() -> list[Path]:
    """Ours and those of the plugins; a plugin's choice of an unknown group, or of a name that is taken, is an error."""
    folders = [CONFIGS]
    for folder in (plugin / "configs" for plugin in plugin_folders()):
        for path in sorted(folder.rglob("*.yaml")):
            if (group := path.parent.relative_to(folder).as_posix()) not in GROUPS:
                raise ConfigError(f"{path}: {group!r} is no group; there are {', '.join(GROUPS)}")
            if taken := [other / group / path.name for other in folders if (other / group / path.name).is_file()]:
                raise ConfigError(f"{path}: {group}={path.stem} is {taken[0]} already; take another name")
        folders.append(folder)
    return folders


def search_path() -> list[str]:
    """The override by which Hydra finds the plugins' choices; none without plugins. Raises ConfigError."""
    plugins = [str(folder).replace("\\", "\\\\").replace("'", "\\'") for folder in _config_folders()[1:]]
    quoted = ",".join(f"'file://{folder}'" for folder in plugins)
    return [f"hydra.searchpath=[{quoted}]"] if quoted else []


def about(group: str, name: str) -> str:
    """A choice's line for lists and help: the first comment of its YAML."""
    lines = config_file(group, name).read_text().splitlines()
    comments = (line[1:].strip() for line in lines if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@")), "")


def build_choice(group: str, name: str) -> Any:
    """A choice of a group, all values as its YAML and the ones it builds on have them."""
    node = OmegaConf.select(compose([f"{group}={name}"]), group.replace("/", "."))
    plain = None if node is None else OmegaConf.to_container(node)
    if group in SEVERAL:
        return next(iter(_build_several(plain, group)), None)
    return build_setting(plain, group)


def is_setting(value: Any) -> bool:
    return isinstance(value, Setting) and is_dataclass(value)


def dump(spec: Spec, *, identity_only: bool = False) -> dict[str, Any]:
    """The whole config as plain JSON values, from which `build` makes the same Spec; or only what is part of its identity."""

    def plain(setting: Any) -> Any:
        if not is_setting(setting):
            return list(setting) if isinstance(setting, tuple) else setting
        cls = type(setting)
        names = [f.name for f in fields(setting) if not (identity_only and f.name in cls.not_identity)]
        target = f"{cls.__module__}.{cls.__qualname__}"
        return {"_target_": target, **{name: plain(getattr(setting, name)) for name in names}}

    groups = {g: s for g, s in spec.settings().items() if not (identity_only and g in NOT_IDENTITY)}
    built = {g: {one.snake_name(): plain(one) for one in s} if g in SEVERAL else plain(s) for g, s in groups.items()}
    return {**built, "seed": spec.seed, "test_every": spec.test_every}


def identity(spec: Spec, fingerprint: str) -> dict[str, Any]:
    """What the run's numbers depend on: classes, numerics versions and fields that differ from their defaults.

    Defaults are left out, so a new field with a default changes no old run's name; paths, worker counts and the logger too.
    """

    def named(setting: Any) -> Any:
        if not is_setting(setting):
            return list(setting) if isinstance(setting, tuple) else setting
        cls = type(setting)
        values = {f.name: getattr(setting, f.name) for f in fields(setting) if f.name not in cls.not_identity}
        defaults = {f.name: f.default for f in fields(setting)}
        changed = {name: named(value) for name, value in values.items() if value != defaults[name] or revised(value)}
        known = cls.__qualname__ if cls.__module__.startswith("effdl.") else f"{cls.__module__}.{cls.__qualname__}"
        return {"class": known, "version": cls.numerics_version, **changed}

    def revised(value: Any) -> bool:
        """A nested setting that gives other numbers than it did at first, though it is the default."""
        if not is_setting(value):
            return False
        return type(value).numerics_version > 1 or any(revised(getattr(value, f.name)) for f in fields(value))

    used = {g: s for g, s in spec.settings().items() if g not in NOT_IDENTITY and (s or g not in LEFT_OUT_UNUSED)}
    settings = {g: {one.snake_name(): named(one) for one in s} if g in SEVERAL else named(s) for g, s in used.items()}
    extra = {} if spec.test_every == "epoch" else {"test_every": spec.test_every}
    return {**settings, **extra, "seed": spec.seed, "data": fingerprint}


def run_id(spec: Spec, fingerprint: str) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of the identity."""
    text = json.dumps(identity(spec, fingerprint), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
