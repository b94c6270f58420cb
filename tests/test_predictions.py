"""`effdl predictions` as its users call it: labels in VOC's colours, beside images and truth, with IoU by image."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import run_here
from PIL import Image
from scenes import voc

from effdl import commands
from effdl.predicting import coloured, draw, palette, predicted, told

NETWORK = [
    *("arch=pixelnet", "arch.widths=[4,4,4,4,4]", "arch.wide=0"),
    *("arch.batch_norm=true", "arch.hidden=[8]", "arch.dropout=0"),
]
STEPS = ["method=backprop", "method.epochs=1", "arch.pixels=50", "hardware.threads=1", "test_every=run"]


def effdl(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    with pytest.raises(SystemExit) as stopped:
        commands.main([str(one) for one in arguments])
    printed = capsys.readouterr()
    return int(stopped.value.code or 0), printed.out, printed.err


def finished(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> Path:
    """The folder of a run that has ended, in one epoch."""
    code = run_here(f"results={folder / 'results'}", *STEPS, *overrides)
    path = json.loads(capsys.readouterr().out.splitlines()[-1])["path"]
    assert code == 0
    return Path(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """On a small set of VOC's form, 20 images with 4 to validate."""
    root = voc(tmp_path / "data", train=16, val=4, sbd=4)
    monkeypatch.chdir(tmp_path)
    data = ["dataset=voc", f"dataset.root={root}", "dataset.size=40", "dataset.val_size=4", "dataset.batch_size=8"]
    return finished(tmp_path, capsys, *data, *NETWORK)


def test_colours_are_those_that_the_development_kit_lists() -> None:
    """Typed out, red, green and blue of labels 0 to 20, and of 255, the ignored border."""
    classes = (
        "0 0 0, 128 0 0, 0 128 0, 128 128 0, 0 0 128, 128 0 128, 0 128 128, 128 128 128, 64 0 0, 192 0 0, 64 128 0, 192 128 0, "
        "64 0 128, 192 0 128, 64 128 128, 192 128 128, 0 64 0, 128 64 0, 0 192 0, 128 192 0, 0 64 128"
    )
    known = {k: tuple(map(int, colour.split())) for k, colour in enumerate(classes.split(", "))} | {255: (224, 224, 192)}
    mask = torch.tensor([*known], dtype=torch.uint8).reshape(2, 11)
    assert [tuple(colour) for colour in coloured(mask).reshape(-1, 3).tolist()] == [*known.values()]
    assert len({tuple(colour) for colour in palette().tolist()}) == 256


def test_a_picture_beside_images_and_labels_in_the_folder_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = effdl(capsys, "predictions", run, "--images", 3)
    assert (code, err) == (0, "") and out.splitlines()[0] == str(run / "predictions.png")
    assert out.splitlines()[1].startswith("mIoU of each image alone: ") and out.count("%") == 3
    with Image.open(run / "predictions.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300 and (pixels == (224, 224, 192)).all(2).any()  # the ignored border


def test_a_row_is_the_image_its_labels_and_the_predictions_with_iou_by_hand(run: Path) -> None:
    shown, dataset = predicted(run, "val", 3)
    figure = draw(shown, dataset)
    for i, one in enumerate(shown):
        image, labels, said = (figure.axes[3 * i + k].images[0].get_array() for k in range(3))
        np.testing.assert_array_equal(image, one.image.permute(1, 2, 0))
        np.testing.assert_array_equal(labels, palette()[one.labels.numpy()])
        np.testing.assert_array_equal(said, palette()[one.predicted.numpy()])
        y, decided = one.labels.numpy(), one.predicted.numpy()
        counted, expected = y != 255, {}
        for k in sorted({*y[counted], *decided[counted]}):
            mine, theirs = (y == k) & counted, (decided == k) & counted
            expected[f"iou/{k}"] = (mine & theirs).sum() / (mine | theirs).sum()
        assert one.scores == pytest.approx({**expected, "miou": np.mean([*expected.values()])})
        assert figure.axes[3 * i + 2].get_xlabel() == told(one.scores)
    words = {text.get_text() for text in figure.legends[0].get_texts()}
    assert "ignored" in words and "0 background" in words
    assert told({"iou/0": 0.5, "iou/7": 1 / 3, "miou": 5 / 12}) == "mIoU 41.7%\n0: 50, 7: 33"


def test_it_says_what_the_run_measured_on_the_same_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All validation images together, by the counts of their pixels: the mIoU that the run recorded."""
    from effdl.objectives.objective import confusion, unions

    shown, _ = predicted(run, "val", 100)
    assert len(shown) == 4
    counts = sum(confusion(s.labels[s.labels != 255], s.predicted[s.labels != 255], 21) for s in shown)
    assert isinstance(counts, torch.Tensor)
    recorded = json.loads((run / "summary.json").read_text())["summary"]["val/miou"]
    assert unions(counts)["miou"] == pytest.approx(recorded)
    code, out, _ = effdl(capsys, "predictions", run, "--split", "train", "--images", 2, "--json")
    told_of: dict[str, Any] = json.loads(out)
    assert code == 0 and len(told_of["images"]) == 2 and all("miou" in one for one in told_of["images"])


def test_a_run_of_another_kind_and_no_run_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = effdl(capsys, "predictions", tmp_path)
    assert code == 4 and "no finished run with a network here" in err and err.count("\n") == 1
    small = ["dataset=digits", "dataset.train_limit=64", "dataset.val_size=50", "dataset.batch_size=32"]
    assert run_here(f"results={tmp_path / 'results'}", "method=backprop", "method.epochs=1", "arch=mlp", *small) == 0
    path = json.loads(capsys.readouterr().out.splitlines()[-1])["path"]
    code, _, err = effdl(capsys, "predictions", path)
    assert code == 2 and "its samples have one target each" in err and err.count("\n") == 1


def test_other_data_than_the_runs_and_no_validation_images_are_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = json.loads((run / "spec.json").read_text())
    spec["identity"]["data"] = "0" * 64
    (run / "spec.json").write_text(json.dumps(spec))
    code, _, err = effdl(capsys, "predictions", run)
    assert code == 3 and "the data that are here are not those of this run" in err and err.count("\n") == 1
