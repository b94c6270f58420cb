"""Images as people bring them, from the command line: the exit code, a line with the advice, and that the advice works."""

import json
import os
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import picture
import pyarrow.parquet as pq
import pytest
from command import files, run_here

from effdl.datasets.image_files import say_remarks
from effdl.datasets.waiting import say_once
from effdl.records.carry import fingerprint

QUICK = ("arch=mlp", "arch.hidden=[4]", "method.epochs=1", "hardware.threads=1", "test_every=run")
IMAGES = ("dataset.size=12", "dataset.batch_size=8", "dataset.val_size=9", "dataset.workers=0")
Make = Callable[[Path], object]
Said = tuple[int, tuple[str, ...]]


SEEDS = count(70_000)  # so that no picture is there twice


def put(path: Path, label: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.encoded(picture.pixels(label, next(SEEDS))))


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def named(folder: Path, name: bytes) -> None:
    with open(os.fsencode(folder) + b"/" + name, "wb") as file:
        file.write(picture.encoded(picture.pixels(0, next(SEEDS))))


def without(folder: Path, *names: str) -> None:
    for name in names:
        shutil.rmtree(folder / name)


# What was done to train/{ant,bee,cat} and val/{ant,bee,cat}; exit code and words; then what follows the advice, with its own.
FOLDERS: dict[str, tuple[Make, Said, Make | tuple[str, ...] | None]] = {
    "link that loops": (lambda d: (d / "train/ant/loop").symlink_to("."), (0, ("left out", "ant/loop")), None),
    "link to a folder around": (lambda d: (d / "train/ant/loop").symlink_to(".."), (0, ("left out", "ant/loop")), None),
    "class that is a link to another": (
        lambda d: (d / "train/dog").symlink_to("ant"),
        (3, ("class", "train/dog is a link into", "delete the link")),
        lambda d: (d / "train/dog").unlink(),
    ),
    "dangling link": (
        lambda d: (d / "train/ant/0.png").symlink_to("/nowhere"),
        (3, ("train/ant/0.png", "a link that leads nowhere", "dataset.unreadable=skip")),
        ("dataset.unreadable=skip",),
    ),
    "pipe": (
        lambda d: os.mkfifo(d / "val/ant/0.png"),
        (3, ("val/ant/0.png", "a pipe", "mend or delete")),
        lambda d: (d / "val/ant/0.png").unlink(),
    ),
    "damaged image": (
        lambda d: damaged(d / "train/ant/000.png"),
        (3, ("1 of 51 images", "train/ant/000.png", "dataset.unreadable=skip")),
        ("dataset.unreadable=skip",),
    ),
    "no image with a newline in its name": (
        lambda d: (d / "train/ant/a\nb.png").write_text("no image"),
        (3, (r"train/ant/a\nb.png'", "cannot identify", "dataset.unreadable=skip")),
        ("dataset.unreadable=skip",),
    ),
    "first name in another coding": (lambda d: named(d / "train/ant", b"\xff.png"), (0, ()), None),
    "last name in another coding": (lambda d: named(d / "val/cat", b"\xff.png"), (0, ()), None),
    "image in both splits": (
        lambda d: shutil.copy(d / "train/ant/000.png", d / "val/ant/000.png"),
        (0, ("1 of 24 files to test on have the content of one to train on", "val/ant/000.png as train/ant/000.png")),
        None,
    ),
    "test folder without a class": (
        lambda d: without(d, "val/bee"),
        (0, ("val has no images of 1 of 3 classes, first bee",)),
        None,
    ),
    "test folder with another class": (
        lambda d: put(d / "val/dog/0.png"),
        (3, ("class dog is in val but not in train", "take it out of val")),
        lambda d: without(d, "val/dog"),
    ),
    "class of one image": (lambda d: put(d / "train/dog/0.png"), (0, ("single sample", "first dog", "trained on")), None),
    "class of two images": (
        lambda d: [put(d / f"train/{name}/{i}.png", i) for name in ("dog", "eel") for i in range(2)],
        (0, ("drawn class by class", "dataset.stratify", "lest class")),
        None,
    ),
    "one class": (
        lambda d: without(d, "train/bee", "train/cat", "val/bee", "val/cat"),
        (3, ("one class, ant", "needs images of another")),
        lambda d: [put(d / "train/bee" / f"{i}.png", 1) for i in range(9)],
    ),
    "empty class": (
        lambda d: (d / "train/dog").mkdir(),
        (3, ("train/dog has no images", "delete its folder")),
        lambda d: without(d, "train/dog"),
    ),
    "no test split": (
        lambda d: without(d, "val"),
        (3, ("no split to test on", "there is train alone", "test/<class>/")),
        lambda d: [put(d / "test" / name / "0.png", i) for i, name in enumerate(picture.CLASSES)],
    ),
    "no training split": (
        lambda d: (d / "train").rename(d / "training"),
        (3, ("train/<class>/ is missing", "there are training, val")),
        lambda d: (d / "training").rename(d / "train"),
    ),
    "too few to validate on": (
        lambda d: [put(d / "train" / f"{i}" / f"{j}.png", i % 3) for i in range(8) for j in range(4)],
        (3, ("missing from the validation split of 9 samples", "11 classes", "dataset.val_size=11 at least")),
        ("dataset.val_size=11",),
    ),
}


def remarks(said: list[str]) -> list[str]:
    """Of the lines those that keep no run from it."""
    return [line for line in said if "of the others" in line or "drawn class by class" in line]


def table(folder: Path, labels: list[Any], names: Any = None) -> None:
    """Training and test files whose images have these labels in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, many in (("train.parquet", 12), ("test.parquet", 4)):
        images = [picture.encoded(picture.pixels(i % 3, i + 100 * many)) for i in range(many * len(labels))]
        pq.write_table(picture.table([*images], labels * many, names=names), folder / name)


RENUMBER = ("dataset.renumber=true",)
PARQUET: dict[str, tuple[Make, Said, Make | tuple[str, ...] | None]] = {
    "gaps": (lambda d: table(d, [0, 5, 9]), (3, ("0, 5, 9, not 0 to 2", *RENUMBER)), RENUMBER),
    "from one": (lambda d: table(d, [1, 2, 3]), (3, ("1, 2, 3, not 0 to 2", *RENUMBER)), RENUMBER),
    "below zero": (lambda d: table(d, [-1, 0, 1]), (3, ("-1, 0, 1, not 0 to 2", *RENUMBER)), RENUMBER),
    "a thousand millions": (lambda d: table(d, [0, 10**9]), (3, ("0, 1000000000, not 0 to 1", *RENUMBER)), RENUMBER),
    "more than are named": (lambda d: table(d, [0, 1, 2], "xy"), (3, ("its files name 2 classes", *RENUMBER)), RENUMBER),
    "one class": (lambda d: table(d, [0, 0]), (3, ("one class, 0", "images of another")), lambda d: table(d, [0, 1])),
    "ending in capitals": (
        lambda d: (table(d, ["a", "b"]), (d / "train.parquet").rename(d / "train.PARQUET")),
        (0, ()),
        None,
    ),
    "no test split": (
        lambda d: (table(d, [0, 1]), (d / "test.parquet").unlink()),
        (3, ("there is train alone", "test/*.parquet")),
        lambda d: table(d, [0, 1]),
    ),
}
ROWS = {("folder", name): row for name, row in FOLDERS.items()} | {("parquet", name): row for name, row in PARQUET.items()}


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_own_images_train_or_get_a_line_whose_advice_works(
    kind: str,
    name: str,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, (code, words), advice = ROWS[kind, name]
    for known in (say_remarks, say_once, fingerprint):  # of another test's files under the same name
        known.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_DATA", "data")
    folder = picture.folders(tmp_path / "data") if kind == "folder" else tmp_path / "data" / "images"
    make(folder)
    before, command = files(tmp_path), (*QUICK, f"dataset={kind}", *IMAGES)
    assert run_here(*command) == code
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("effdl: ")]
    assert [word for word in words if word not in " ".join(said)] == [], said
    assert all(line.isprintable() for line in said) and " object at " not in err and "Warning" not in err
    if code == 0:
        assert (words or said == remarks(said)) and json.loads(out)["status"] == "finished"
        return
    assert out == "" and len([line for line in err.splitlines() if line not in remarks(said)]) == 1
    assert {path for path in files(tmp_path) - before if not path.startswith("cache")} == set()
    assert advice is not None, "advice that nobody follows"
    if isinstance(advice, tuple):
        assert run_here(*command, *advice) == 0
    else:
        advice(folder)
        assert run_here(*command) == 0


def test_inputs_that_are_no_numbers_are_said_as_that_and_not_as_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs" / "dataset").mkdir(parents=True)
    (tmp_path / "configs" / "dataset" / "holes.yaml").write_text(
        "# A sine with holes.\n_target_: holes.Holes\nsamples: 200\nbatch_size: 20\nval_size: 40\ntrain_limit: null\n"
        "stratify: null\nscaling: none\nat: train\n"
    )
    (tmp_path / "holes.py").write_text(
        "from effdl.datasets.toy import Sine\nfrom effdl.setting import setting\n\n\n"
        "@setting\nclass Holes(Sine):\n    at: str = 'train'\n\n    def load(self):\n        train, test = super().load()\n"
        "        (train if self.at == 'train' else test).x[7] = float('nan')\n        return train, test\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFDL_PLUGINS", str(tmp_path))
    for at, where in (("train", "training inputs"), ("test", "test inputs")):
        assert run_here(*QUICK, "dataset=holes", f"dataset.at={at}", "objective=linear_mse") == 3
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "diverged" not in err.lower()
        assert where in err and "hold NaN or infinity, first sample" in err and "leave them out or fill them in" in err
