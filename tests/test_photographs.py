"""CINIC-10, Oxford-IIIT Pet, Oxford 102 Flower: torchvision's own readers of the same files, and every kind of bad input."""

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import photographs
import picture
import pytest
import torch
import torchvision.datasets
from command import answer, run
from scipy.io import loadmat, savemat
from torchvision.transforms import v2

from effdl.config import build_choice
from effdl.datasets.cinic10 import CLASSES, Cinic10
from effdl.datasets.dataset import Dataset, split
from effdl.datasets.flowers import Flowers
from effdl.datasets.pets import Pets
from effdl.datasets.split import Samples
from effdl.datasets.splitting import check_split
from effdl.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")
SMALL: dict[str, Any] = {"workers": 0, "size": 12, "batch_size": 8, "val_size": 3}


def made(kind: Any, root: Path, **fields: Any) -> Any:
    return kind(**{"root": str(root), **SMALL} | fields)


def agrees(ours: Samples, theirs: Any) -> None:
    """ours: at 12 pixels. theirs: pairs of a Pillow image and a label."""
    shrink = v2.Compose([v2.Resize(12), v2.CenterCrop(12)])
    assert len(ours) == len(theirs) > 0
    for i, (image, label) in enumerate(theirs):
        assert int(ours.y[i]) == label
        np.testing.assert_array_equal(ours.x[i].numpy(), np.asarray(shrink(image)).transpose(2, 0, 1))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three, not to be changed."""
    root = tmp_path_factory.mktemp("sets")
    for write in (photographs.cinic10, photographs.pets, photographs.flowers):
        write(root)
    return root


FOLDERS = {Cinic10: "CINIC-10", Pets: "oxford-iiit-pet", Flowers: "flowers-102"}


def copied(sets: Path, kind: Any, root: Path) -> Path:
    """One of them, to be changed."""
    return Path(shutil.copytree(sets / FOLDERS[kind], root / FOLDERS[kind]))


# --- what is read


@pytest.mark.parametrize("plus", [False, True])
def test_cinic10_is_what_image_folder_finds_in_its_splits(plus: bool, sets: Path) -> None:
    train, test = picture.whole(made(Cinic10, sets, plus=plus))
    of = {name: list(torchvision.datasets.ImageFolder(str(sets / "CINIC-10" / name))) for name in ("train", "valid", "test")}
    agrees(train, of["train"] + of["valid"] if plus else of["train"])
    agrees(test, of["test"])
    assert [made(Cinic10, sets).class_name(i) for i in range(10)] == list(CLASSES)
    facts = made(Cinic10, sets, plus=plus, val_size=7).facts()
    assert (facts.train, facts.val, facts.test, facts.outputs) == (43 if plus else 23, 7, 20, 10)


def test_the_samples_to_choose_by_come_out_of_both_parts_that_cinic10_plus_trains_on(sets: Path) -> None:
    dataset = made(Cinic10, sets, plus=True, val_size=20)
    whole, test = dataset.load()
    train, val = split(dataset, whole, seed=3)
    assert (len(train), len(val), len(test)) == (30, 20, 20)
    places = {where: set(part.positions.tolist()) for where, part in (("train", train), ("val", val))}
    assert places["train"] | places["val"] == set(range(50)) and not places["train"] & places["val"]
    assert any(place < 30 for place in places["val"]) and any(place >= 30 for place in places["val"])


def test_pets_are_read_as_torchvision_reads_them(sets: Path) -> None:
    for ours, part in zip(picture.whole(made(Pets, sets)), ("trainval", "test"), strict=True):
        agrees(ours, torchvision.datasets.OxfordIIITPet(str(sets), split=part))
    theirs = torchvision.datasets.OxfordIIITPet(str(sets)).classes
    ours = [made(Pets, sets).class_name(i) for i in range(37)]
    assert [name.replace("_", " ").title() for name in ours] == [name.title() for name in theirs]
    facts = made(Pets, sets, val_size=20).facts()
    assert (facts.train, facts.val, facts.test, facts.outputs) == (54, 20, 37, 37)


def test_flowers_are_read_as_torchvision_reads_them_training_and_validation_joined(
    sets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
    of = {part: list(torchvision.datasets.Flowers102(str(sets), split=part)) for part in ("train", "val", "test")}
    train, test = picture.whole(made(Flowers, sets))
    agrees(train, of["train"] + of["val"])
    agrees(test, of["test"])
    assert train.y.bincount().tolist() == [2] * 102


@pytest.mark.parametrize("kind", [Cinic10, Pets, Flowers])
def test_streamed_they_give_the_same_pixels(kind: Any, sets: Path) -> None:
    whole, _ = picture.whole(made(kind, sets))
    streamed = made(kind, sets, memory_mib=0).load()[0].to(torch.device("cpu"))
    assert not isinstance(streamed, Samples)
    assert torch.equal(torch.cat([batch.x for batch in streamed.batches(17)]), whole.x) and torch.equal(streamed.y, whole.y)


def test_sizes_by_the_sets_own_definition_and_their_defaults() -> None:
    pixels = {"cinic10": 32, "cinic10_plus": 32, "pets": 224, "flowers": 224}
    tests = {"cinic10": 90_000, "cinic10_plus": 90_000, "pets": 3_669, "flowers": 6_149}
    for name, size in pixels.items():
        dataset: Any = build_choice("dataset", name)
        assert (dataset.size, dataset.test_size, dataset.is_complete) == (size, tests[name], True)
    assert build_choice("dataset", "cinic10_plus") == Cinic10(plus=True)


def test_a_fingerprint_is_of_images_and_labels(sets: Path, tmp_path: Path) -> None:
    folder = copied(sets, Pets, tmp_path)
    first = made(Pets, tmp_path).fingerprint()
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copytree(folder, moved / "oxford-iiit-pet")
    assert made(Pets, moved).fingerprint() == first
    for name in ("trainval", "test"):
        file = moved / "oxford-iiit-pet" / "annotations" / f"{name}.txt"
        names, labels, *rest = zip(*(line.split() for line in file.read_text().splitlines()), strict=True)
        exchanged = [{"1": "37", "37": "1"}.get(label, label) for label in labels]
        file.write_text("\n".join(map(" ".join, zip(names, exchanged, *rest, strict=True))))
    assert made(Pets, moved).load()[0].y[0] == 36 and made(Pets, moved).fingerprint() != first
    image = folder / "images" / f"{names[3]}.jpg"
    image.write_bytes(image.read_bytes() + b"\0")
    assert made(Pets, tmp_path).fingerprint() != first


@pytest.mark.parametrize(("kind", "title"), [(Pets, "OxfordIIITPet"), (Flowers, "Flowers102")])
def test_a_download_asks_torchvisions_class_once_and_finds_the_set(
    kind: Any, title: str, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = getattr(torchvision.datasets, title), []

    def fetch(**arguments: Any) -> None:
        inspect.signature(real).bind(**arguments)
        asked.append(arguments)
        copied(sets, kind, Path(arguments["root"]))

    monkeypatch.setattr(torchvision.datasets, title, fetch)
    dataset = made(kind, tmp_path, download=True, val_size=3)
    assert dataset.facts().outputs == (37 if kind is Pets else 102)
    assert asked == [{"root": str(tmp_path), "download": True}] and len(dataset.load()[1]) > 0
    assert {"root", "download", "memory_mib", "workers"} <= kind.not_identity


# --- what is wrong


def refused(dataset: Dataset, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        dataset.facts(), picture.whole(dataset)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Cinic10, r"^no CINIC-10 under .*train/airplane/ is missing.*EFFDL_DATA.*fetch CINIC-10\.tar\.gz from https.*tar -xzf"),
        (Pets, r"^no OxfordIIITPet under .*images/ is missing.*EFFDL_DATA.*download=true$"),
        (Flowers, r"^no Flowers102 under .*jpg/ is missing.*EFFDL_DATA.*download=true$"),
    ],
)
def test_a_missing_set_says_where_it_was_looked_for_and_what_to_do(kind: Any, says: str, tmp_path: Path) -> None:
    refused(made(kind, tmp_path), says)
    with pytest.raises(DataError, match=str(tmp_path)):
        made(kind, tmp_path).fingerprint()


def test_cinic10_with_other_folders_than_its_own(sets: Path, tmp_path: Path) -> None:
    folder = copied(sets, Cinic10, tmp_path)
    shutil.move(folder / "valid", tmp_path / "valid")
    assert made(Cinic10, tmp_path, val_size=3).facts().train == 27  # which does without
    refused(made(Cinic10, tmp_path, plus=True), r"^CINIC-10 is incomplete under .*valid/airplane/ is missing")
    shutil.move(tmp_path / "valid", folder / "valid")
    shutil.move(folder / "valid" / "horse", folder / "valid" / "zebra")
    refused(made(Cinic10, tmp_path, plus=True), r"valid/horse/ is missing")
    (folder / "valid" / "horse").mkdir()
    refused(made(Cinic10, tmp_path, plus=True), r"valid/zebra is no class of CINIC-10.*dataset=folder")
    shutil.rmtree(folder / "valid" / "zebra")
    refused(made(Cinic10, tmp_path, plus=True), r"valid/horse/ has no images")
    for file in (folder / "test" / "dog").iterdir():
        file.unlink()
    refused(made(Cinic10, tmp_path), r"^CINIC-10 is incomplete under .*test/dog/ has no images")


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        (Cinic10, "train/ship/n08-0.png"),
        (Pets, f"images/{photographs.BREEDS[3]}_1.jpg"),
        (Flowers, "jpg/image_00007.jpg"),
    ],
)
def test_damaged_images_are_named_or_skipped(kind: Any, image: str, sets: Path, tmp_path: Path) -> None:
    folder = copied(sets, kind, tmp_path)
    whole = (folder / image).read_bytes()
    (folder / image).write_bytes(whole[: len(whole) // 2])
    refused(made(kind, tmp_path), rf"1 of \d+ images cannot be read, first .*{image}.*unreadable=skip")
    before = made(kind, tmp_path, unreadable="stop").facts()
    skipping = made(kind, tmp_path, unreadable="skip")
    assert sum(len(part) for part in picture.whole(skipping)) == before.train + before.val + before.test - 1


def test_listed_images_that_are_not_there(sets: Path, tmp_path: Path) -> None:
    pets, flowers = (copied(sets, kind, tmp_path) for kind in (Pets, Flowers))
    name = photographs.BREEDS[9]
    for i in (1, 2):
        (pets / "images" / f"{name}_{i}.jpg").unlink()
    refused(made(Pets, tmp_path), rf"^OxfordIIITPet is incomplete under .*images/{name}_1\.jpg with 1 more is missing")
    (flowers / "jpg" / "image_00005.jpg").unlink()
    refused(made(Flowers, tmp_path), r"^Flowers102 is incomplete under .*jpg/image_00005\.jpg is missing")
    (flowers / "setid.mat").unlink()
    refused(made(Flowers, tmp_path), r"setid\.mat is missing")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: ["# a comment", "", *lines, "Abyssinian_7"], r"trainval\.txt: line 77 is 'Abyssinian_7', not"),
        (lambda lines: [lines[0].replace(" 1 ", " one ", 1), *lines[1:]], r"trainval\.txt: line 1 is "),
        (lambda lines: [*lines[:-1], lines[-1].replace(" 37 ", " 38 ")], r"label 38 in annotations/trainval\.txt"),
        (lambda lines: [*lines[:-1], lines[-1].replace(" 37 ", " 0 ")], r"label 0 in annotations/trainval\.txt"),
        (lambda lines: [*lines[:-1], lines[-1].replace(" 37 ", " 36 ")], r"label 3\d is .* and, of image"),
        (lambda lines: [*lines, lines[4]], r"listed twice .*in trainval or test or both"),
        (lambda lines: [], r"trainval\.txt lists no image"),
        (lambda lines: lines[:-2], r"class cat36 is missing from the training split"),
    ],
)
def test_annotations_of_pets_that_do_not_fit(
    change: Callable[[list[str]], list[str]], says: str, sets: Path, tmp_path: Path
) -> None:
    file = copied(sets, Pets, tmp_path) / "annotations" / "trainval.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    dataset = made(Pets, tmp_path)

    def opened() -> None:
        whole, test = dataset.load()
        check_split(dataset, dataset.facts(), whole, (*split(dataset, whole, 0), test))

    with pytest.raises(DataError, match=says) as error:
        opened()
    assert "\n" not in str(error.value)


def test_annotations_of_flowers_that_do_not_fit(sets: Path, tmp_path: Path) -> None:
    folder = copied(sets, Flowers, tmp_path)
    splits = {name: ids for name, ids in loadmat(folder / "setid.mat").items() if not name.startswith("__")}
    labels = loadmat(folder / "imagelabels.mat")["labels"]

    def written(says: str, labels: Any = labels, **changed: Any) -> None:
        savemat(folder / "setid.mat", {**splits, **changed})
        savemat(folder / "imagelabels.mat", {"labels": labels})
        refused(made(Flowers, tmp_path), says)

    written(r"image 307, but imagelabels\.mat has labels of images 1 to 306", valid=np.array([[5, 307]]))
    written(r"image 0, but", tstid=np.array([[0]]))
    written(r"is listed twice", tstid=splits["trnid"])
    written(r"label 103 in imagelabels\.mat \(1 such\) is not from 1 to 102", np.where(np.arange(306) == 8, 103, labels))
    written(r"is not the published file: it has .*trnid \(1, 102\)", valid=np.array([[0.5]]))
    savemat(folder / "setid.mat", {"trnid": splits["trnid"]})
    refused(made(Flowers, tmp_path), r"setid\.mat is not the published file: it has trnid")
    (folder / "setid.mat").write_bytes((folder / "imagelabels.mat").read_bytes()[:150])
    refused(made(Flowers, tmp_path), r"setid\.mat cannot be read: .*fetch it again")


# --- from the command line


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("dataset=cinic10_plus", "dataset.val_size=10", "arch=resnet_cifar", "arch.depth=8"),
        ("dataset=pets", "dataset.size=64", "dataset.val_size=37", "arch=mobilevit_v2"),
        ("dataset=flowers", "dataset.size=48", "dataset.val_size=102", "arch=shufflenet_v2_x0_5"),
    ],
)
def test_they_train_by_their_names(arguments: tuple[str, ...], sets: Path, tmp_path: Path) -> None:
    done = run("method=backprop", "method.epochs=1", "dataset.batch_size=20", *arguments, cwd=tmp_path, EFFDL_DATA=str(sets))
    assert done.returncode == 0, done.stderr
    summary = answer(done)["summary"]
    assert 0 <= summary["test/acc"] <= 1 and summary["data/train_samples"] in (40, 37, 102)
