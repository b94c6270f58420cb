"""From overrides to one composed config, by Hydra."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from effdl.cache import installed, recall, remember
from effdl.config.groups import CONFIGS, GROUPS, choices, digest_of_configs, holder, search_path
from effdl.errors import ConfigError, one_line

JOBS_CALLBACK = "hydra_plugins.effdl_jobs.Jobs"  # the one target that Hydra itself makes for us
_BEFORE_1_4 = tuple(map(int, installed("hydra-core").split(".")[:2])) < (1, 4)
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if _BEFORE_1_4 else {}  # which 1.4 has done away with
WHITELIST: dict[str, Any] = {} if _BEFORE_1_4 else {"execution_whitelist": [JOBS_CALLBACK, "logging.*"]}  # which 1.5 asks for
SEARCHES = "hydra/sweeper=effdl_search"  # which sweeper carries a search out
OF_SWEEPER = re.compile(r"\+*hydra[./]sweeper[./]")
PACKAGES = {  # that bring choices of Hydra's own groups
    "hydra/launcher=joblib": "hydra-joblib-launcher",
    "hydra/launcher=submitit": "hydra-submitit-launcher",
    "hydra/launcher=ray": "hydra-ray-launcher",
    "hydra/sweeper=optuna": "hydra-optuna-sweeper",
}
SETS_A_VALUE = re.compile(r"(?!hydra\.)[A-Za-z_][\w.]*=")  # a key that is there; nothing of Hydra's own
CHOSEN = "chosen"  # a root key: group -> the name of its choice, for people
SWEEP = re.compile(r"(\[[^]]*\]|\{[^}]*\})|,.*")  # outside of brackets, what follows the first value


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The composed config for these overrides, as run.py's command line takes them. Raises ConfigError.

    Hydra takes 0.2 s for it, and a table asks for hundreds again and again: what comes out is remembered as plain values,
    interpolations unresolved, under all that goes in. Of cells that differ in values alone, Hydra composes the choices once.
    """
    key = json.dumps([CHOSEN, installed("hydra-core"), installed("omegaconf"), digest_of_configs(), *overrides])
    plain = recall("composed", key)
    if plain is not None:
        remembered: DictConfig = OmegaConf.create(plain)
        OmegaConf.set_struct(remembered, True)
        return remembered
    made = _set_on_choices(overrides)
    composed = compose_named(overrides) if made is None else made
    plain = OmegaConf.to_container(composed)
    if "${" not in " ".join(overrides) and survives_json(plain):
        remember("composed", key, plain)
    return composed


def _set_on_choices(overrides: Sequence[str]) -> DictConfig | None:
    """The choices composed (and remembered) by themselves, and the values set on them, which is what Hydra does last.

    None where there is more to it than choices and values of keys that are there: additions, deletions, sweeps, mistakes.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    choosing = [one for one in overrides if one.partition("=")[0] in GROUPS]
    setting = [one for one in overrides if one not in choosing]
    if not setting or any(not SETS_A_VALUE.match(one) or "${" in one for one in setting):
        return None
    try:
        values = OverridesParser.create().parse_overrides(setting)
        if any(value.is_sweep_override() for value in values):
            return None
        made = compose(choosing)
        for value in values:
            OmegaConf.update(made, value.key_or_group, value.value(), merge=True)
    except (ConfigError, HydraException, OmegaConfBaseException):
        return None
    return made


def survives_json(plain: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(plain, allow_nan=False)) == plain)
    except (TypeError, ValueError):
        return False


def compose_named(overrides: Sequence[str], folder: str | None = None, name: str | None = None) -> DictConfig:
    """The same by Hydra itself, for another config than ours, too, as --config-dir and --config-name say it to run.py."""
    return _with_choices(_by_hydra(overrides, folder, name))


def of_sweeper(overrides: Sequence[str], folder: str | None = None, name: str | None = None) -> dict[str, Any]:
    """What these overrides, and such a config, set under hydra.sweeper for a search. Raises ConfigError."""
    given = [one for one in overrides if OF_SWEEPER.match(one)]
    if not given and folder is None and name is None:
        return {}
    made = _by_hydra([*given, SEARCHES], folder, name)
    plain: Any = OmegaConf.to_container(made.hydra.sweeper)
    return {key: value for key, value in plain.items() if value not in (None, {}) and not key.startswith("_")}


def _by_hydra(overrides: Sequence[str], folder: str | None = None, name: str | None = None) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from yaml import YAMLError

    name = "config" if name is None else name.removesuffix(".yaml")
    places = [CONFIGS] if folder is None else [CONFIGS, Path(folder).resolve()]
    first, *others = sorted(places, key=lambda place: not (place / f"{name}.yaml").is_file())  # where alone Hydra looks for it
    hydra, running = GlobalHydra.instance(), GlobalHydra.instance().hydra
    hydra.clear()  # a launcher runs within Hydra's own initialisation
    try:
        with initialize_config_dir(str(first), **VERSION_BASE):
            return hydra_compose(name, [*overrides, *search_path(others)], return_hydra_config=True)
    except HydraException as error:
        raise composition_error(error, overrides) from error
    except YAMLError as error:  # names its file
        raise ConfigError(one_line(error)) from error
    except RecursionError:
        raise ConfigError(f"{' '.join(overrides)}: a choice's defaults list comes back to the choice itself") from None
    except ValueError as error:  # such as method=null
        raise ConfigError(f"{' '.join(overrides)}: {error}") from error
    finally:
        hydra.hydra = running


def _with_choices(made: DictConfig) -> DictConfig:
    """The config without Hydra's own node, which knows what was chosen; that stands under `CHOSEN`."""
    named = chosen_by_hydra(made.hydra.runtime.choices)
    with open_dict(made):
        del made["hydra"]
        made[CHOSEN] = named
    return made


def chosen_by_hydra(choices: Any = None) -> dict[str, str]:
    """group -> the choice by its name: of what Hydra notes, by default of the command that it composed in this process."""
    from hydra.core.hydra_config import HydraConfig

    if choices is None:
        choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    return {str(group): str(name) for group, name in choices.items() if group in GROUPS and isinstance(name, str)}


def parse(override: str) -> Any:
    """An override as Hydra reads it. Raises ConfigError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override}: {one_line(error)}") from None


def composition_error(error: BaseException, overrides: Sequence[str] = ()) -> ConfigError:
    """Hydra's several lines as one that keeps the key and what there is instead."""
    from effdl.config.mistakes import unreadable

    flags = any(one.startswith("-") for one in overrides)  # whose values stand among them
    given = [one for one in overrides if not flags or "=" in one or one.startswith("~")]
    if said := next(filter(None, map(unreadable, given)), None):
        return ConfigError(said)
    if missing := getattr(error, "missing_cfg_file", None):
        group, _, name = missing.rpartition("/")
        if not group:
            return ConfigError(f"--config-name {name}: there is no such config; --config-dir names the folder that it is in")
        if package := PACKAGES.get(f"{group}={name.split('_')[0]}"):
            return ConfigError(f"{group}={name}: needs the package {package}, which is not installed")
        there = choices(group) or error.options  # type: ignore[attr-defined]
        return ConfigError(f"{group}={name}: unknown choice; there are {', '.join(there or ['none'])}")
    if lacking := missing_package(error):
        key = re.search(r"full_key: (\S+)", str(error))
        return ConfigError(f"{key[1] if key else 'hydra'}: needs the package {lacking}, which is not installed")
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
    text = re.sub(r"Invalid Defaults List override '/?([^@:']+).*?'", r"Could not override '\1'", text)  # as Hydra 1.4 has it
    if match := re.match(r"In '(.+)/(.+?)': Could not override '(.+?)'", text):
        rivals = [o for o in overrides if o.startswith(f"{match[3].split('/')[0]}=")]
        return ConfigError(
            f"{match[1]}={match[2]}: chooses {match[3]}, which does not go with {' '.join(rivals) or 'the rest'}"
        )
    if said := _of_many_runs(text, overrides):
        return ConfigError(said)
    if match := re.match(r"Could not override '(.+?)'", text):
        if match[1] in GROUPS and "/" not in match[1]:
            return ConfigError(f"{match[1]}: takes a choice by its name; there are {', '.join(choices(match[1]))}")
        if match[1] in GROUPS:
            group, child = match[1].split("/")
            return ConfigError(f"{match[1]}: the chosen {group} has no {child}; {group}={holder(match[1])[0]} has")
        return ConfigError(f"{match[1]}: unknown key; {instead(match[1], overrides)}")
    if match := re.match(r"Ambiguous value for argument '(.+?)'", text):
        return ConfigError(f"{match[1]}: several values make a sweep, which needs -m; one list is written key=[a,b]")
    key = getattr(error, "override", None)
    return ConfigError(f"{key}: {text}" if key and key not in text else text)


def _of_many_runs(text: str, overrides: Sequence[str]) -> str | None:
    """What values that make several runs are written for, where Hydra's text is of such; else None."""
    if match := re.match(r"Sweep parameters '([^=]+)=(.*)' requires --multirun", text):
        key, value = match.groups()
    elif text.startswith("BasicSweeper does not support sweep type : INTERVAL"):
        key, _, value = next((one for one in overrides if "interval(" in one), "-m=interval(...)").partition("=")
    else:
        return None
    if "interval(" in value:
        return f"{key}: {value} is a space, of which -m search=optuna tries values; a run takes one of them, -m alone a,b,c"
    return f"{key}: {value} names several values, each a run with -m, or a trial with -m search=optuna; a run takes one of them"


def missing_package(error: BaseException | None) -> str | None:
    """The package for want of which an error came about."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name.split(".")[0]
        error = error.__cause__
    return None


def instead(key: str, overrides: Sequence[str]) -> str:
    """What could stand in the place of an unknown key, given the other overrides (of a sweep, its first run)."""
    if key.startswith("hydra.sweeper."):
        return f"what is not there yet is added, with a plus: +{key}=...; -m --cfg hydra shows what there is"
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
    keys = sorted(str(k) for k in node if k not in ("_target_", "hydra", CHOSEN))
    return f"there are {', '.join(keys) or 'none'}"
