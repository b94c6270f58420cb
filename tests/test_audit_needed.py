"""Whether the ledgers must be audited is told from what changed since the last landed state."""

import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "audit_needed.py"))
METHOD = '''
@setting
class Toy(Method):
    """Words."""

    numerics_version: ClassVar[int] = 2
    rate: Positive = 1.0

    def version(self) -> int:
        return 1 if self.rate == 1 else 2

    def fit(self, problem):
        return problem
'''
PLACE = "effdl/methods/toy.py"


@pytest.mark.parametrize(
    "path",
    [
        "results/ledger/demo.jsonl",
        "results/ledger/fig-7.4.paper.png",
        "experiments/demo.yaml",
        "experiments/chapter_7/fig_7_4.py",
        "configs/method/dll.yaml",
        "effdl/config/identity.py",
        "effdl/reproduce/declared.py",
        "effdl/setting.py",
    ],
)
def test_what_an_audit_reads_asks_for_one(path: str) -> None:
    (line,) = SCRIPT["reasons"]({path: (None, None), "README.md": (None, None)})
    assert line.startswith(path)


@pytest.mark.parametrize("path", ["README.md", "tests/test_audit_needed.py", "effdl/py.typed", "docs/results/x", "run.py"])
def test_other_files_ask_for_none(path: str) -> None:
    assert SCRIPT["reasons"]({path: ("a = 1", "a = 2")}) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("numerics_version: ClassVar[int] = 2", "numerics_version: ClassVar[int] = 3"),
        ("    numerics_version: ClassVar[int] = 2\n", ""),
        ("numerics_version: ClassVar[int]", "numerics_version"),
        ("self.rate == 1", "self.rate < 1"),
        ("rate: Positive = 1.0", "rate: Positive = 2.0"),
        ("rate: Positive", "rate: Share"),
        ("class Toy", "class Tot"),
        ("(Method)", "(ClosedForm)"),
        ("@setting\n", ""),
    ],
)
def test_a_class_whose_runs_are_named_in_another_way_asks_for_an_audit(old: str, new: str) -> None:
    changed = METHOD.replace(old, new)
    assert changed != METHOD
    (line,) = SCRIPT["reasons"]({PLACE: (METHOD, changed)})
    assert "Toy" in line


@pytest.mark.parametrize(
    ("old", "new"), [("return problem", "return None"), ("Words.", "Others."), ("@setting", "# x\n@setting")]
)
def test_what_a_class_does_and_says_asks_for_none(old: str, new: str) -> None:
    assert METHOD.replace(old, new) != METHOD
    assert SCRIPT["reasons"]({PLACE: (METHOD, METHOD.replace(old, new))}) == []


def test_a_class_that_moved_asks_for_an_audit_at_both_places() -> None:
    moved = SCRIPT["reasons"]({PLACE: (METHOD, None), "effdl/methods/other.py": (None, METHOD)})
    assert [line.split(":")[0] for line in moved] == ["effdl/methods/other.py", PLACE]


class Repository:
    """A git repository in which a session commits; hours count from its beginning."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "--quiet")

    def git(self, *args: str, **more: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *who, *args], cwd=self.folder, check=True, capture_output=True, text=True, env={**os.environ, **more}
        )
        return done.stdout.strip()

    def commit(self, hour: float, path: str, text: str) -> str:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)
        self.git("add", "--all")
        date = f"{1_700_000_000 + int(3600 * hour)} +0000"
        self.git("commit", "--quiet", "-m", path, GIT_COMMITTER_DATE=date, GIT_AUTHOR_DATE=date)
        return self.git("rev-parse", "HEAD")

    def asked(self, *given: str) -> int:
        return int(SCRIPT["main"](self.folder, list(given)))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_young_repository_is_audited(repository: Repository) -> None:
    repository.commit(0, "README.md", "a")
    repository.commit(2, "README.md", "b")
    assert repository.asked() == 1


def test_all_commits_of_a_session_are_compared_with_the_state_before_it(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.commit(0, "experiments/demo.yaml", "a")
    landed = repository.commit(20, PLACE, METHOD)
    repository.commit(40, "experiments/demo.yaml", "b")
    repository.commit(42, "README.md", "c")
    assert repository.asked() == 1
    assert capsys.readouterr().out.splitlines() == [
        f"audit: needed since {landed[:10]}",
        "  experiments/demo.yaml changed",
    ]
    repository.commit(42.5, "experiments/demo.yaml", "a")
    repository.commit(42.5, PLACE, METHOD.replace("return problem", "return None"))
    assert repository.asked() == 0
    assert "not needed" in capsys.readouterr().out
    repository.commit(43, PLACE, METHOD.replace("= 2", "= 3"))
    assert repository.asked() == 1 and repository.asked("HEAD") == 0


def test_a_class_that_moved_to_another_file_is_seen_however_alike_the_files_are(repository: Repository) -> None:
    landed = repository.commit(0, PLACE, METHOD)
    repository.git("mv", PLACE, "effdl/methods/other.py")
    repository.commit(1, "README.md", "a")
    assert repository.asked(landed) == 1
