"""Imports run one way, and heavy packages are imported where they are used: read from the source of every module."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"errors", "rng", "setting", "torchrun", "cache", "home"}
PARTS = GROUND | {"objectives", "datasets", "archs"}
# What each part of effdl may import of effdl beside itself. reproduce → records → config; methods → costs → training → parts.
MAY = {
    "errors": set(),
    "rng": set(),
    "setting": set(),
    "torchrun": set(),
    "cache": set(),
    "home": {"errors"},
    "huge_pages": set(),
    "objectives": GROUND,
    "datasets": GROUND | {"objectives"},
    "archs": GROUND | {"datasets", "objectives"},
    "least_squares": PARTS,
    "neighbours": set(),
    "compression": {"errors", "neighbours"},
    "representations": {"least_squares", "neighbours"},
    "training": PARTS | {"compression"},
    "costs": PARTS | {"training"},
    "methods": PARTS | {"costs", "least_squares", "training"},
    "probes": PARTS | {"compression", "training", "neighbours", "representations"},
    "filters": PARTS | {"training", "neighbours"},
    "augment": PARTS,
    "layerwise": PARTS | {"training", "methods", "records"},
    "estimators": PARTS | {"least_squares", "training", "methods", "records"},
    "testing": PARTS | {"training", "methods", "records"},
    "config": {"errors", "setting", "cache", "home"},
    "records": PARTS | {"training", "costs", "config", "filters", "probes"},
    "search": {"config", "errors", "home", "records", "rng", "setting"},
    "reproduce": PARTS | {"config", "records", "search"},
    "jobs": {"config", "errors", "records"},
    "help": {"config"},
    "checking": {"config", "records", "torchrun"},
    "sweep_folder": {"jobs"},
    "compressing": {"compression", "errors", "records"},
    "predicting": {"config", "datasets", "errors", "objectives", "records"},
    "searching": {"config", "errors", "search"},
    "ending": {"config", "errors", "jobs", "records", "torchrun"},
    "arguments": {"config", "errors"},
    "cli": {
        "checking",
        "config",
        "ending",
        "errors",
        "help",
        "home",
        "huge_pages",
        "jobs",
        "records",
        "reproduce",
        "search",
        "searching",
        "sweep_folder",
        "torchrun",
    },
    "commands": {
        "arguments",
        "checking",
        "cli",
        "compressing",
        "config",
        "ending",
        "errors",
        "home",
        "huge_pages",
        "predicting",
        "records",
        "reproduce",
        "searching",
    },
    "__main__": {"commands"},
}
OF_REPRODUCE = ("published", "vocabulary", "artefact", "catalogue", "survey", "declared", "ledger")
LIGHT = (
    *(f"reproduce/{name}" for name in OF_REPRODUCE),
    "commands",
    "checking",
    "arguments",
    "cli",
    "ending",
    "help",
    "jobs",
    "searching",
    "sweep_folder",
    "cache",
    "home",
    *(
        f"config/{name}"
        for name in (
            "__init__",
            "composition",
            "explain",
            "grammar",
            "groups",
            "identity",
            "mistakes",
            "moved",
            "options",
            "parts",
            "spec",
            "spelled_out",
        )
    ),
    "search/setting",
    "errors",
    "rng",
    "setting",
    "torchrun",
    "records/store",
    "records/execute",
    "records/report",
    "records/tracking",
    "__init__",
)
MODULES = sorted([*(ROOT / "effdl").rglob("*.py"), ROOT / "run.py", *(ROOT / "hydra_plugins").rglob("*.py")])


@cache
def imported(path: Path) -> list[tuple[str, bool]]:
    """Each module that a file imports, and whether on top, that is at its own import."""
    return [*_imported(path)]


def _imported(path: Path) -> Iterator[tuple[str, bool]]:
    tree = ast.parse(path.read_text())
    nested = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    nested |= {id(n) for block in typing for n in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in nested) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "effdl" else [module]
            yield from ((name, id(node) not in nested) for name in names)


def part(path: Path) -> str:
    return path.relative_to(ROOT / "effdl").with_suffix("").parts[0]


def test_every_module_was_found() -> None:
    """Git knows the same ones, and each part of effdl has its entry."""
    ask = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "run.py", "hydra_plugins/*.py", "effdl/*.py"]
    known = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {path.relative_to(ROOT).as_posix() for path in MODULES} == {name for name in known if (ROOT / name).exists()}
    assert {part(path) for path in MODULES if path.is_relative_to(ROOT / "effdl")} == {"__init__", *MAY}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.is_relative_to(ROOT / "effdl")], ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_run_one_way(path: Path) -> None:
    own = part(path)
    targets = {name.split(".")[1] for name, _ in imported(path) if name.startswith("effdl.")}
    assert targets - {own} <= MAY.get(own, set())


def test_methods_costs_and_training_never_see_records_or_configs() -> None:
    seen = {name for p in MODULES if p.parent.name in ("methods", "costs", "training") for name, _ in imported(p)}
    assert {
        name for name in seen if name.startswith(("effdl.records", "effdl.config", "effdl.cli", "hydra", "omegaconf"))
    } == set()


def test_hydra_is_imported_where_configs_are_composed_and_nowhere_else() -> None:
    users = {p.relative_to(ROOT).as_posix() for p in MODULES for name, _ in imported(p) if name.split(".")[0] == "hydra"}
    plugins = {f"hydra_plugins/effdl_{name}.py" for name in ("jobs", "launcher", "sweeper")}
    assert users == {"run.py", "effdl/config/composition.py", "effdl/config/grammar.py", *plugins}


def test_vision_libraries_are_imported_inside_functions_only() -> None:
    heavy = ("torchvision", "timm", "sklearn", "wandb", "pyarrow", "PIL", "zstandard", "constriction")
    on_top = [(p, name) for p in MODULES for name, top in imported(p) if top and name.split(".")[0] in heavy]
    estimators = ROOT / "effdl" / "estimators.py"  # which extends scikit-learn's classes
    assert {p for p, name in on_top if name.startswith("sklearn")} == {estimators}
    assert [(p, name) for p, name in on_top if p != estimators] == []


def test_what_tests_need_is_not_imported_by_the_package() -> None:
    test_tools = {"pytest", "hypothesis"}
    assert [(p, name) for p in MODULES for name, _ in imported(p) if name.split(".")[0] in test_tools] == []


@pytest.mark.parametrize("name", LIGHT)
def test_what_the_help_page_needs_does_not_import_torch(name: str) -> None:
    tops = {module.split(".")[0] for module, top in imported(ROOT / "effdl" / f"{name}.py") if top}
    assert tops.isdisjoint({"torch", "numpy", "pandas", "safetensors", "matplotlib"})
