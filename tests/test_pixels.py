"""Labels of pixels end to end: mean intersection over union, VOC's files, hypercolumns, sampled pixels, what is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command import run_here
from PIL import Image
from scenes import scene, voc
from torch import Tensor

from effdl.archs.pixelnet import Pixelnet, PixelPerceptron
from effdl.archs.tapping import of_drawn
from effdl.config import build, compose
from effdl.datasets.dataset import Facts, split
from effdl.datasets.garments import borders
from effdl.datasets.voc import SBD, VOC, Voc
from effdl.errors import ConfigError, DataError, EffdlError
from effdl.objectives.losses import SoftmaxCe
from effdl.objectives.objective import confusion, unions
from effdl.training.loop import reseed
from effdl.training.selection import score

SMALL = [
    "arch=pixelnet",
    "arch.widths=[8,12,16,16,16]",
    "arch.wide=0",
    "arch.batch_norm=true",
    "arch.hidden=[32]",
    "arch.dropout=0",
]
FACTS = Facts((3, 48, 48), "pixels", 21, 20, 5, 10, 5)


def small(**settings: Any) -> Pixelnet:
    return Pixelnet(**{"widths": (4, 6, 8, 8, 8), "wide": 0, "hidden": (16,), "dropout": 0.0, "pixels": None, **settings})


def test_miou_of_counts_by_hand() -> None:
    """Of labels 0 0 0 1 1 2 decided as 0 0 1 1 1 0: unions of 4, 3 and 1 hold 2, 2 and 0; a fourth class is nowhere."""
    y, decided = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 1, 1, 0])
    counts = confusion(y, decided, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    found = unions(counts)
    assert found == pytest.approx({"iou/0": 2 / 4, "iou/1": 2 / 3, "iou/2": 0, "miou": (1 / 2 + 2 / 3) / 3})
    assert math.isnan(unions(torch.zeros(2, 2))["miou"])


def test_miou_is_of_all_images_without_ignored_pixels_and_chooses() -> None:
    outputs, y = torch.randn(6, 5, 7, 8), torch.randint(0, 5, (6, 7, 8))
    y[torch.rand(y.shape) < 0.2] = 255
    parts = [SoftmaxCe().tally(outputs[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)]
    found = SoftmaxCe().scores({name: parts[0][name] + parts[1][name] + parts[2][name] for name in parts[0]})
    decided, counted = outputs.argmax(1).numpy(), y.numpy() != 255
    of_each = []
    for k in range(5):
        mine, said = (y.numpy() == k) & counted, (decided == k) & counted
        of_each.append((mine & said).sum() / (mine | said).sum())
        assert found[f"iou/{k}"] == pytest.approx(of_each[-1])
    assert found["miou"] == pytest.approx(np.mean(of_each)) and score(found) == found["miou"] != found["acc"]


def test_hypercolumns_are_what_hooks_on_torchvisions_vgg16_see(tmp_path: Path) -> None:
    """With its own weights, filters divided by sixteen, and against torch's bilinear interpolation."""
    from torchvision.models.vgg import VGG, cfgs, make_layers

    narrow = [part if part == "M" else part // 16 for part in cfgs["D"]]
    theirs = VGG(make_layers(narrow)).eval()  # type: ignore[arg-type]
    theirs.classifier[0], theirs.classifier[3] = torch.nn.Linear(32 * 49, 24), torch.nn.Linear(24, 24)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pt")
    widths = (4, 8, 16, 32, 32)
    arch = small(widths=widths, wide=24, weights=str(tmp_path / "vgg.pt"))
    chain = arch.build(dataclasses.replace(FACTS, input_shape=(3, 64, 64))).eval()
    seen: list[Tensor] = []
    for place in (3, 8, 15, 22, 29):  # behind the ReLU of conv1_2, 2_2, 3_3, 4_3 and 5_3
        theirs.features[place].register_forward_hook(lambda module, args, out: seen.append(out))
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        pooled = theirs.features(chain.input(x))
        first, second = theirs.classifier[0], theirs.classifier[3]
        conv6 = F.relu(F.conv2d(pooled, first.weight.reshape(24, 32, 7, 7), first.bias, padding=3))
        seen.append(F.relu(F.conv2d(conv6, second.weight.reshape(24, 24, 1, 1), second.bias)))
        columns = torch.cat([F.interpolate(z, (64, 64), mode="bilinear", align_corners=False) for z in seen], 1)
        expected = chain.head.layers(columns.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(chain(x), expected, rtol=1e-3, atol=1e-4)


def test_an_enlarged_image_is_read_at_the_centres_of_its_pixels() -> None:
    """Of a map as large as the enlarged image, four of its pixels to one: their mean."""
    head = small(size=32, pixels=None).build(dataclasses.replace(FACTS, input_shape=(1, 16, 16))).head
    z = torch.randn(1, 5, 32, 32)
    assert isinstance(head, PixelPerceptron)
    found = head.columns([z], torch.arange(256)[None])
    torch.testing.assert_close(found.transpose(1, 2).reshape(1, 5, 16, 16), F.avg_pool2d(z, 2), rtol=1e-5, atol=1e-5)


def test_pixels_are_drawn_among_those_with_labels_and_learn_to_the_same_expectation() -> None:
    """The mean gradient over many draws against that of all pixels, within five standard errors."""
    reseed(0)
    arch = small(pixels=40)
    chain = arch.build(FACTS).double().train()
    head = chain.head
    assert isinstance(head, PixelPerceptron)
    y = torch.randint(0, 21, (2, 48, 48))
    y[0, :40], y[1, 5:] = 255, 255  # which leaves 384 and 240
    maps = [torch.randn(2, width, 48 // 2**i, 48 // 2**i, dtype=torch.float64) for i, width in enumerate((4, 6, 8, 8, 8))]
    weight = next(head.parameters())

    def gradient(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.autograd.grad(SoftmaxCe().loss(outputs, targets).mean(), weight)[0]

    whole, some = gradient(head(maps), y), []
    for _ in range(150):
        outputs, targets = of_drawn(head, maps, y)
        assert outputs.shape == (2, 21, 40, 1) and (targets != 255).all()
        some.append(gradient(outputs, targets))
    drawn = torch.stack(some)
    error = drawn.std(0) / math.sqrt(len(some))
    assert ((drawn.mean(0) - whole).abs() <= 5 * error + 1e-12).all() and error.max() > 0


def test_fewer_labels_than_pixels_to_draw_are_all_taken() -> None:
    head = small(pixels=40).build(FACTS).head
    assert isinstance(head, PixelPerceptron)
    y = torch.full((1, 48, 48), 255)
    y[0, 3, :7] = 2
    at = head.drawn(y)
    assert at is not None and (y.flatten(1).gather(1, at) == 2).sum() == 7 and at.unique().numel() == 40


def test_voc_is_read_as_it_unpacks(tmp_path: Path) -> None:
    """SBD's labels are added but for an image of VOC's lists; of an image that is taller than wide the middle is cut out."""
    dataset = Voc(root=str(voc(tmp_path)), size=40, val_size=4)
    facts = dataset.facts()
    assert (facts.targets, facts.outputs, facts.train, facts.val, facts.test) == ("pixels", 21, 26, 4, 10)
    train, test = dataset.load()
    for place, number in ((0, 0), (19, 19), (20, 30), (29, 39)):
        pixels, labels = scene(number)
        np.testing.assert_array_equal(train.y[place], labels[4:44])
        assert np.abs(train.x[place].numpy().astype(int) - pixels[4:44].transpose(2, 0, 1)).mean() < 12  # JPEG's loss
    np.testing.assert_array_equal(test.y[3], scene(23)[1][4:44])
    assert len(Voc(root=str(tmp_path), sbd="none").load()[0]) == 20 and len(Voc(root=str(tmp_path), sbd="all").load()[0]) == 30
    assert dataset.fingerprint() != Voc(root=str(tmp_path), sbd="none").fingerprint()
    some, val = split(dataset, train, seed=3)
    assert (len(some), len(val)) == (26, 4) and next(some.batches(5)).y.dtype == torch.int64
    halved = Voc(root=str(tmp_path), size=20).load()[0]
    assert set(halved.y[0].unique().tolist()) <= set(train.y[0].unique().tolist())


def broken(what: str, root: Path) -> None:
    names = sorted((root / VOC / "SegmentationClass").iterdir())
    if what == "list":
        (root / VOC / "ImageSets/Segmentation/train.txt").unlink()
    elif what == "mask":
        names[2].unlink()
    elif what == "sbd":
        (root / SBD / "train.txt").unlink()
    elif what == "colours":
        Image.fromarray(np.zeros((48, 40, 3), np.uint8)).save(names[1])
    elif what == "class":
        Image.fromarray(np.full((48, 40), 77, np.uint8)).save(names[1])
    elif what == "size":
        Image.fromarray(np.zeros((20, 20), np.uint8)).save(names[1])


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            "list",
            r"ImageSets/Segmentation/train.txt is missing: point .* holds VOCdevkit/; VOCtrainval_11-May-2012.tar .* brings it",
        ),
        ("mask", r"SegmentationClass/2008_000002.png is missing: "),
        ("sbd", r"labels of SBD under .*train.txt is missing: .*benchmark.tgz .*dataset.sbd=none"),
        ("colours", r"2008_000001.png \(ValueError: it has colours \(RGB\) and not the numbers of classes"),
        ("class", r"2008_000001.png \(ValueError: it has label 77, and classes are 0 to 20, 255 for none\)"),
        ("size", r"2008_000001.png \(ValueError: its labels are 20×20 pixels and its image 40×48"),
    ],
)
def test_what_is_wrong_with_a_voc_folder_is_said_in_one_line(what: str, says: str, tmp_path: Path) -> None:
    broken(what, voc(tmp_path, train=6, val=4, sbd=2))
    with pytest.raises(DataError, match=says) as raised:
        Voc(root=str(tmp_path), size=40, val_size=1).load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (["method=dll"], r"^method: Segmentwise learns from outputs for whole images .*method=backprop$"),
        (["method=dpl"], r"^method: Segmentwise "),
        (["method=dfa"], r"^method: Dfa "),
        (["arch=cnn4"], r"^arch: Cnn4 has outputs for whole images, and here each pixel has a label: arch=pixelnet$"),
        (["augment=standard"], r"^augment: Standard would move images without their labels"),
        (["filter=k_filter"], r"^filter: "),
        (["probe=lsd"], r"^probe: "),
        (["dataset=digits"], r"^arch: Pixelnet labels pixels, and here a sample has a single target"),
        (["objective=exp_ga", "objective.targets=[2,1]"], r"targets.*two ascending values"),
        (["objective=exp_ga", "objective.alpha=0"], r"alpha"),
    ],
)
def test_what_does_not_go_with_pixels_is_refused_in_one_line(choices: list[str], says: str) -> None:
    arch = [] if choices[0].startswith("arch=") else SMALL
    with pytest.raises(EffdlError, match=says):
        build(compose(["dataset=garments", *arch, "method=backprop", *choices]))


def test_weights_that_are_not_vgg16s_are_named(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3, 3, 3, 3)}, tmp_path / "other.pt")
    with pytest.raises(
        ConfigError, match=r"not VGG-16's: features.0.weight is \[3, 3, 3, 3\] there, and conv1_1.0 here is \[4, 3, "
    ):
        small(weights=str(tmp_path / "other.pt")).check(FACTS)


def test_borders_are_where_labels_meet() -> None:
    y = torch.zeros(1, 4, 5, dtype=torch.uint8)
    y[0, :2, 3:] = 4
    expected = [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    assert borders(y)[0].int().tolist() == expected


@pytest.mark.parametrize(("objective", "lr"), [("softmax_ce", 0.01), ("exp_ga", 0.005)])
def test_pixelnet_learns_squares_of_21_classes(
    objective: str, lr: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By far more than the one answer that all is background, whose mean is 1 / 21 at most."""
    root = voc(tmp_path / "data", train=120, val=20, sbd=40)
    monkeypatch.chdir(tmp_path)
    data = [f"dataset.root={root}", "dataset.size=40", "dataset.val_size=20"]
    training = ["method=backprop", "method.epochs=12", "optimizer=adam", f"optimizer.lr={lr}", f"objective={objective}"]
    code = run_here("dataset=voc", *data, *SMALL, "arch.pixels=400", *training, "test_every=run", "hardware.threads=1")
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])["summary"]
    assert code == 0 and summary["test/miou"] > 0.4 and summary["val/miou"] > 0.4
    assert {f"test/iou/{k}" for k in range(21)} <= summary.keys()


@pytest.mark.parametrize("accumulate", [1, 3])
def test_scores_after_each_epoch_are_those_of_the_end(
    accumulate: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured on kept features, where a run in the end measures stored images; a batch in parts or whole."""
    root = voc(tmp_path / "data", train=16, val=4, sbd=4)
    monkeypatch.chdir(tmp_path)
    data = ["dataset=voc", f"dataset.root={root}", "dataset.size=40", "dataset.val_size=4", "dataset.batch_size=8"]
    training = ["method=backprop", "method.epochs=2", f"method.accumulate={accumulate}", "hardware.threads=1"]
    found = []
    for when in ("epoch", "run"):
        assert run_here(*data, *SMALL, "arch.pixels=50", *training, f"test_every={when}") == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["summary"])
    for key in ("test/miou", "test/acc", "test/loss", "val/miou"):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-5)
