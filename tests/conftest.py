"""What tests share: one thread, so that sums have one order; no word of how far something is; an empty cache folder."""

from pathlib import Path

import command
import pytest
import torch

from effdl.records import tracking


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine says no more on standard error than an idle one."""
    monkeypatch.setattr(tracking, "QUIET_S", 3600.0)


@pytest.fixture(autouse=True)
def all_their_seconds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where times are compared, commands import their libraries as they do for a user."""
    if request.node.get_closest_marker("alone"):
        monkeypatch.setattr(command, "AHEAD", False)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "effdl"
