"""The hooks before a commit: without a network, each refuses what it is there for and lets the rest pass."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT

GOOD = '"""A module."""\n\nWIDTH: int = 3\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the hooks and one good module, as far as they look at it."""
    folder = tmp_path / "repository"
    (folder / "effdl").mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    for name in (".pre-commit-config.yaml", "pyproject.toml", "run.py"):
        shutil.copy(ROOT / name, folder)
    (folder / "run.py").write_text(GOOD)
    (folder / "effdl" / "good.py").write_text(GOOD)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def hooks(folder: Path) -> tuple[int, str]:
    """Exit code and output of all hooks on all files; any download would fail."""
    subprocess.run(["git", "-C", str(folder), "add", "-A"], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    here = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PRE_COMMIT_HOME": str(folder.parent)}
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"]
    done = subprocess.run(command, cwd=folder, env={**kept, **here, **nowhere}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_the_config_is_valid_and_good_files_pass(repository: Path) -> None:
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    code, said = hooks(repository)
    assert code == 0 and said.count("Passed") == 4 and said.count("Skipped") == 2, said  # no data, no ledgers


BAD = {
    "effdl/unused.py": (b'"""A module."""\n\nimport os\n', "ruff check"),
    "effdl/spaces.py": (b'"""A module."""\n\nWIDTH   = 3\n', "ruff format"),
    "effdl/types.py": (b'"""A module."""\n\nWIDTH: int = "3"\n', "mypy"),
    "MNIST/raw/t10k-labels-idx1-ubyte": (b"12", "no data sets"),
    "network.safetensors": (b"12", "no data sets"),
    "results/runs/0123/metrics.jsonl": (b"{}\n", "no data sets"),
    "pictures/large.txt": (b"1" * (500 * 1024 + 1), "no file above"),
    "results/ledger/table-0.jsonl": (b"1" * (8192 * 1024 + 1), "no ledger above"),
}


def test_each_hook_refuses_what_it_is_there_for_and_nothing_else(repository: Path) -> None:
    for name, (content, _) in BAD.items():
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_bytes(content)
    code, said = hooks(repository)
    parts = re.split(r"^(.*?)\.\.\.+(Passed|Skipped|Failed)$", said, flags=re.MULTILINE)
    refused = {title: {name for name in BAD if name in told} for title, told in zip(parts[1::3], parts[3::3], strict=True)}
    titles = {hook: [title for title in refused if title.startswith(hook)] for _, hook in BAD.values()}
    assert code == 1 and parts[2::3] == ["Failed"] * len(titles), said
    assert {hook: refused[title] for hook, (title,) in titles.items()} == {
        hook: {name for name, (_, of_hook) in BAD.items() if of_hook == hook} for hook in titles
    }, said
