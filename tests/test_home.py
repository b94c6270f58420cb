"""Home folders in names that come through no shell, and users without one."""

import pwd
from pathlib import Path

import picture
import pytest
from command import run_here

from effdl import cache
from effdl.errors import ConfigError
from effdl.home import at_home

QUICK = ("arch=mlp", "arch.hidden=[4]", "method.epochs=1", "hardware.threads=1", "dataset.train_limit=100", "test_every=run")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, and an empty folder to work in."""
    (tmp_path / "home").mkdir(), (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user as containers have them: no HOME, no entry in passwd."""

    def unknown(uid: object) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("getpwuid", "getpwnam"):
        monkeypatch.setattr(pwd, name, unknown)
    monkeypatch.setattr(cache, "_known", {})
    monkeypatch.chdir(tmp_path)


def test_records_go_home(home: Path) -> None:
    assert run_here(*QUICK, "results='~/records'") == 0
    assert run_here("-m", *QUICK, "results='~/of sweeps'", "seed=0", "workers=1") == 0
    assert {path.name for path in home.iterdir()} - {".cache"} == {"of sweeps", "records"}
    assert len([*home.glob("*/runs/*/summary.json")]) == 2 and [*home.glob("of sweeps/sweeps/*")] != []
    assert [*Path().iterdir()] == []


def test_data_and_weights_are_looked_for_at_home(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = ("dataset=folder", "dataset.size=12", "dataset.batch_size=8", "dataset.val_size=9")
    picture.folders(home / "sets")
    monkeypatch.setenv("EFFDL_DATA", "~/sets")
    assert run_here(*QUICK[:-2], *images) == 0
    monkeypatch.setenv("EFFDL_DATA", "elsewhere")
    assert run_here(*QUICK[:-2], *images, "dataset.root='~/sets'") == 0
    capsys.readouterr()
    assert run_here(*QUICK[:-2], *images, "dataset.root='~/none'") == 3
    assert f"no image folders under {home}/none/images" in capsys.readouterr().err
    (home / "w.safetensors").write_bytes(b"no weights")
    assert run_here("arch=shufflenet_v2_x0_5", "arch.weights='~/w.safetensors'") == 2
    assert f"arch.weights: {home}/w.safetensors is damaged" in capsys.readouterr().err


def test_a_logger_writes_and_a_search_stores_at_home(home: Path) -> None:
    assert run_here(*QUICK, "logger=wandb", "logger.mode=offline", "logger.dir='~/logs'") == 0
    assert [*home.glob("logs/wandb/offline-run-*")] != []
    search = ("-m", "search=optuna", "search.n_trials=1", "search/sampler=random", "optimizer.lr=0.1,0.2", "workers=1")
    assert run_here(*search, *QUICK, "search.storage='sqlite:///~/trials.db'") == 0
    assert (home / "trials.db").is_file() and not Path("~").exists()


@pytest.mark.parametrize("more", [(), ("-m",)])
@pytest.mark.parametrize("key", ["dataset.root", "results", "+dataset.root"])
def test_a_bare_tilde_gets_a_line_that_says_how_to_quote_it(
    key: str, more: tuple[str, ...], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_here(*more, "seed=1", f"{key}=~/x") == 2
    out, err = capsys.readouterr()
    name = key.lstrip("+")
    assert (out, err) == (
        "",
        f"effdl: {name}: a value that begins with ~ needs quotes within the shell's: \"{name}='~/x'\"\n",
    )
    assert [*Path().iterdir()] == [*home.iterdir()] == []


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_trains_all_the_same(tmp_path: Path) -> None:
    assert run_here(*QUICK) == 0 and len([*tmp_path.glob("results/runs/*/summary.json")]) == 1
    with cache.alone(cache.place("kind", "key")):
        assert cache.found_out("kind", "key", lambda: 3) == 3


@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_tilde_says_what_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(*QUICK, "results='~/x'") == 2
    assert capsys.readouterr().err == "effdl: results: there is no home folder for ~/x: set HOME, or write the path out\n"
    with pytest.raises(ConfigError, match="no home folder for ~nobody-at-all/x"):
        at_home("~nobody-at-all/x", "dataset.root")
