"""From overrides to a Spec: compose with Hydra, build settings, check the combination, name the run."""

from effdl.config import grammar
from effdl.config.composition import JOBS_CALLBACK, VERSION_BASE, WHITELIST, compose, composition_error, missing_package
from effdl.config.groups import (
    CONFIGS,
    GROUPS,
    MAY_BE_NONE,
    SEVERAL,
    about,
    choices,
    config_file,
    default_choices,
    plugin_folders,
    search_path,
)
from effdl.config.identity import all_settings, dump, identity, is_setting, run_id
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
    "compose",
    "composition_error",
    "config_file",
    "default_choices",
    "dump",
    "grammar",
    "identity",
    "is_setting",
    "missing_package",
    "plugin_folders",
    "run_id",
    "search_path",
]
