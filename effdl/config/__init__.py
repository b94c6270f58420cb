"""From overrides to a Spec: compose with Hydra, build settings, check the combination, name the run."""

from effdl.config import grammar
from effdl.config.composition import (
    JOBS_CALLBACK,
    VERSION_BASE,
    WHITELIST,
    chosen_by_hydra,
    compose,
    composition_error,
    missing_package,
)
from effdl.config.groups import (
    CONFIGS,
    GROUPS,
    MAY_BE_NONE,
    SEVERAL,
    about,
    choices,
    config_file,
    default_choices,
    digest_of_configs,
    plugin_folders,
    search_path,
)
from effdl.config.identity import all_settings, dump, identity, is_setting, run_id, run_ids
from effdl.config.mistakes import refuse, values_of_a_sweep
from effdl.config.moved import today
from effdl.config.options import told_apart
from effdl.config.parts import composed
from effdl.config.spec import Spec, build, build_choice, build_setting, check

__all__ = [
    "CONFIGS",
    "GROUPS",
    "JOBS_CALLBACK",
    "MAY_BE_NONE",
    "SEVERAL",
    "VERSION_BASE",
    "WHITELIST",
    "Spec",
    "about",
    "all_settings",
    "build",
    "build_choice",
    "build_setting",
    "check",
    "choices",
    "chosen_by_hydra",
    "compose",
    "composed",
    "composition_error",
    "config_file",
    "default_choices",
    "digest_of_configs",
    "dump",
    "grammar",
    "identity",
    "is_setting",
    "missing_package",
    "plugin_folders",
    "refuse",
    "run_id",
    "run_ids",
    "search_path",
    "today",
    "told_apart",
    "values_of_a_sweep",
]
