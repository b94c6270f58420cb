"""What was declared, and when: a claim's tolerance and a row's floor count if they were committed before the runs."""

import ast
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from effdl.errors import ConfigError
from effdl.reproduce import seeds
from effdl.reproduce.artefact import Declaration, parse, shared
from effdl.reproduce.vocabulary import Artefact

CELL = "cell "  # before a cell's name; of these new ones may come, with runs of their own


def fixed(declaration: Declaration, scale: str, beside: str | None) -> dict[str, str]:
    """Digests of what must not move once the runs are known: claims, floors, which choices are ours, the measures, and of each
    cell its overrides, its seeds and its published number.

    Args:
        beside: the source of the module beside the declaration, of which the drawing is free.
    """
    raw = declaration.raw
    contents: dict[str, Any] = {f"claims.{name}": claim for name, claim in seeds.claims(declaration).items()}
    contents["floors"] = seeds.floors(declaration, scale)
    contents["choices"] = {name: list(told["choices"]) for name, told in (raw.get("assumptions") or {}).items()}
    contents["published"] = raw.get("published")
    contents["measures"] = _measuring(beside)
    for cell in declaration.all_cells(scale):
        asked = [] if cell.search is None else [cell.search.asked]
        contents[CELL + cell.name] = [cell.overrides, cell.seeds, cell.published, *asked]
    return {name: seeds.digest(content) for name, content in contents.items()}


def at(declaration: Declaration, scale: str, commit: str | None) -> dict[str, Any]:
    """The declaration as it stood in a commit: its own last commit until then, and what was fixed. Nothing without one."""
    text, own = _at(declaration.path, commit) if commit else (None, None)
    beside, _ = _at(declaration.module, commit) if commit else (None, None)
    try:
        raw = shared(parse(text or ""), lambda name: _at(declaration.path.with_name(name), commit)[0] or "")
        digests = fixed(Declaration(Artefact.model_validate(raw), declaration.path, raw), scale, beside)
    except (YAMLError, OmegaConfBaseException, ValidationError, ConfigError):
        digests = {}
    return {"commit": own, "fixed": digests}


def moved(declaration: Declaration, scale: str, then: Mapping[str, Any]) -> list[str]:
    """What is not now as it was fixed ``then``, before the runs: changed, new, or no longer there.

    Of evidence that is marked as known before its claims, the settings of its cells alone are held to.
    """
    module = declaration.module
    now = fixed(declaration, scale, module.read_text() if module.is_file() else None)
    new = {name for name in now if name.startswith(CELL) and name not in then["fixed"]}
    held = {**now, **then["fixed"]}
    if declaration.scale(scale).evidence != "fresh":
        held = {name: held[name] for name in held if name.startswith(CELL)}
    return [name for name in held if name not in new and then["fixed"].get(name) != now.get(name)]


def _measuring(source: str | None) -> list[str]:
    """What ``measures`` of a module comes to: of functions, constants and imports those that it reaches, without comments,
    docstrings and layout; drawing is free."""
    body = ast.parse(source or "").body
    defined = {name: node for node in body for name in _names(node)}
    reached, pending = set[str](), ["measures"]
    while pending:
        if (name := pending.pop()) in defined and name not in reached:
            reached.add(name)
            pending += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    for node in body:
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in reached]
    return [ast.unparse(node) for node in body if reached.intersection(_names(node))]


def _names(node: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]


@lru_cache(maxsize=256)
def _at(path: Path, commit: str) -> tuple[str | None, str | None]:
    own = _git(path, "log", "-1", "--format=%H", commit, "--", path.name)
    return (_git(path, "show", f"{own}:./{path.name}"), own) if own else (None, None)


def _git(path: Path, *args: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(path.parent), *args], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no checkout, or an unknown commit
        return None
    return done.stdout.strip() or None
