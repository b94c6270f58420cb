"""From overrides to a Spec: compose with Hydra, build settings, check the combination, name the run."""

from effdl.config import grammar
from effdl.config.composition import (
    JOBS_CALLBACK,
    SEARCHES,
    VERSION_BASE,
    WHITELIST,
    chosen_by_hydra,
    compose,
    composition_error,
    missing_package,
    of_sweeper,
)
from effdl.config.groups import (
    CONFIGS,
    GROUPS,
    OF_A_RUN,
    about,
    choices,
    config_file,
    default_choices,
    digest_of_configs,
    plugin_folders,
    search_path,
)
from effdl.config.identity import all_settings, dump, identity, is_setting, run_id, run_ids
from effdl.config.mistakes import no_config, refuse, values_of_a_sweep
from effdl.config.moved import today
from effdl.config.options import ALONE, WITH_VALUE, named, told_apart
from effdl.config.parts import composed
from effdl.config.spec import Spec, build, build_choice, build_setting, check
from effdl.config.spelled_out import spelled_out

__all__ = [
    "ALONE",
    "CONFIGS",
    "GROUPS",
    "JOBS_CALLBACK",
    "OF_A_RUN",
    "SEARCHES",
    "VERSION_BASE",
    "WHITELIST",
    "WITH_VALUE",
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
    "named",
    "no_config",
    "of_sweeper",
    "plugin_folders",
    "refuse",
    "run_id",
    "run_ids",
    "search_path",
    "spelled_out",
    "today",
    "told_apart",
    "values_of_a_sweep",
]
