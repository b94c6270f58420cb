"""Must the ledgers be audited? python scripts/audit_needed.py [BASE] compares HEAD with BASE and ends with 1 if so, or unsure.

Without BASE: the newest commit that was made twelve hours before HEAD or earlier. A session's own commits are younger, whatever
their number, so that this one had landed; where there is none, all is audited.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOURS = 12
# What an audit reads, and the code by which it judges.
WATCHED = (
    "results/",
    "experiments/",
    "configs/",
    "effdl/config/",
    "effdl/reproduce/",
    "effdl/setting.py",
    "tests/test_audit.py",
)
Change = tuple[str | None, str | None]  # a file's text before and after; None where it is not there


def reasons(changes: Mapping[str, Change]) -> list[str]:
    """Why an audit is needed, one line for each file that asks for it, given all files that changed; none where it is not."""
    found = []
    for path, (before, after) in sorted(changes.items()):
        if path.startswith(WATCHED):
            found.append(f"{path} changed")
        elif path.startswith("effdl/") and path.endswith(".py"):
            then, now = settings(before), settings(after)
            names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
            if names:
                found.append(f"{path}: {', '.join(names)}: fields, version or place changed")
    return found


def settings(source: str | None) -> dict[str, str]:
    """Of each class in a module all that names its runs: bases, fields with their defaults, ``version``."""
    return {} if source is None else dict(_settings(source))


def _settings(source: str) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            kept = [part for part in node.body if isinstance(part, ast.Assign | ast.AnnAssign) or _is_version(part)]
            yield node.name, "\n".join(map(ast.unparse, [*node.decorator_list, *node.bases, *kept]))


def _is_version(part: ast.stmt) -> bool:
    return isinstance(part, ast.FunctionDef) and part.name == "version"


def base(root: Path) -> str | None:
    """The newest commit on HEAD's own line that is so many hours older than HEAD; None where there is none."""
    made = int(_git(root, "log", "-1", "--format=%ct"))
    for line in _git(root, "log", "--first-parent", "--format=%H %ct").splitlines():
        commit, time = line.split()
        if made - int(time) >= HOURS * 3600:
            return commit
    return None


def changes(root: Path, since: str) -> dict[str, Change]:
    """All files that differ between a commit and HEAD; those of effdl, where they are read, with their texts."""
    names = _git(root, "diff", "--name-only", "--no-renames", "-z", since, "HEAD").split("\0")
    return {name: (_text(root, since, name), _text(root, "HEAD", name)) for name in names if name}


def _text(root: Path, commit: str, name: str) -> str | None:
    if not name.endswith(".py") or not _git(root, "ls-tree", "--name-only", commit, "--", name):
        return None
    return _git(root, "show", f"{commit}:{name}")


def _git(root: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True).stdout


def main(root: Path, given: list[str]) -> int:
    since = given[0] if given else base(root)
    if since is None:
        print(f"audit: no commit is {HOURS} hours older than HEAD to compare with")
        return 1
    found = reasons(changes(root, since))
    print(f"audit: {'needed' if found else 'not needed'} since {since[:10]}", *found, sep="\n  ")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(ROOT, sys.argv[1:]))
