"""Colour image sets read from files in their published layout, against torchvision's readers of the same files."""

import hashlib
import inspect
import io
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.io import savemat

from effdl.datasets import cifar
from effdl.datasets.cifar import Cifar
from effdl.datasets.dataset import Facts
from effdl.datasets.files import Files
from effdl.datasets.split import Samples
from effdl.datasets.stl10 import Stl10
from effdl.datasets.svhn import Svhn
from effdl.errors import DataError
from effdl.setting import Setting

RNG = np.random.default_rng(0)
EACH = 20  # images in a file


def pixels(count: int, side: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def labels(count: int, classes: int) -> np.ndarray:
    return RNG.permutation(np.arange(count) % classes).astype(np.uint8)


def cifar_binary(root: Path, variant: str) -> None:
    ten = variant == "CIFAR10"
    folder = root / ("cifar-10-batches-bin" if ten else "cifar-100-binary")
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"] if ten else ["train", "test"]:
        columns = [labels(EACH, 10)] if ten else [labels(EACH, 20), labels(EACH, 100)]
        records = np.concatenate([np.stack(columns, 1), pixels(EACH).reshape(EACH, -1)], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Writes byte strings as Python 2 wrote all its strings, which is how the published pickles were made."""

    def save_bytes(self, text: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(text)) + text)

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, bytes: save_bytes}  # type: ignore[attr-defined]


def pickled(content: dict[bytes, Any]) -> bytes:
    file = io.BytesIO()
    Python2(file, protocol=2).dump(content)
    return file.getvalue()


def cifar_python(root: Path, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles as those of the distribution, whose checksums effdl and torchvision are then told to be the published ones."""
    ten = variant == "CIFAR10"
    folder = root / ("cifar-10-batches-py" if ten else "cifar-100-python")
    folder.mkdir(parents=True)
    sums = {}
    for name in [*cifar.TRAIN_10, "test_batch"] if ten else ["train", "test"]:
        named = {b"labels": labels(EACH, 10).tolist()}
        if not ten:
            named = {b"coarse_labels": labels(EACH, 20).tolist(), b"fine_labels": labels(EACH, 100).tolist()}
        content = pickled({b"data": pixels(EACH).reshape(EACH, -1), **named})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [], "fine_label_names": []})
    (folder / ("batches.meta" if ten else "meta")).write_bytes(meta)
    monkeypatch.setattr(cifar, "MD5", sums)
    theirs = getattr(torchvision.datasets.cifar, variant)
    monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name in sums if not name.startswith("test")])
    monkeypatch.setattr(theirs, "test_list", [[name, sums[name]] for name in sums if name.startswith("test")])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": hashlib.md5(meta).hexdigest()})


def svhn(root: Path, *names: str) -> None:
    (root / "SVHN").mkdir(parents=True, exist_ok=True)
    for name in names:
        images = pixels(EACH).transpose(2, 3, 1, 0)
        content = {"X": images, "y": labels(EACH, 10)[:, None] + 1}
        savemat(root / "SVHN" / f"{name}_32x32.mat", content, do_compression=True)


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(pixels(EACH, 96).tobytes())
        (folder / f"{split}_y.bin").write_bytes((labels(EACH, 10) + 1).tobytes())


def agrees(ours: Samples, images: np.ndarray, targets: Any) -> None:
    assert ours.x.dtype == torch.uint8 and ours.x.is_contiguous() and ours.y.dtype == torch.long
    np.testing.assert_array_equal(ours.x.numpy(), images)
    np.testing.assert_array_equal(ours.y.numpy(), np.asarray(targets))


@pytest.mark.parametrize("variant", ["CIFAR10", "CIFAR100"])
def test_cifars_pickles_are_read_as_torchvision_reads_them(
    variant: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar_python(tmp_path, variant, monkeypatch)
    for ours, training in zip(Cifar(variant=variant, root=str(tmp_path)).load(), (True, False), strict=True):
        theirs = getattr(torchvision.datasets, variant)(str(tmp_path), train=training)
        agrees(ours, theirs.data.transpose(0, 3, 1, 2), theirs.targets)


@pytest.mark.parametrize(
    ("variant", "kind", "column", "classes"),
    [
        ("CIFAR10", "fine", 0, 10),
        ("CIFAR100", "fine", 1, 100),
        ("CIFAR100", "coarse", 0, 20),
    ],
)
def test_cifars_binary_records_are_labels_then_planes(
    variant: Any, kind: Any, column: int, classes: int, tmp_path: Path
) -> None:
    cifar_binary(tmp_path, variant)
    dataset = Cifar(variant=variant, labels=kind, root=str(tmp_path), val_size=10)
    folder = tmp_path / ("cifar-10-batches-bin" if variant == "CIFAR10" else "cifar-100-binary")
    train = [f"data_batch_{i}.bin" for i in range(1, 6)] if variant == "CIFAR10" else ["train.bin"]
    head = 1 if variant == "CIFAR10" else 2
    for ours, names in zip(dataset.load(), (train, ["test_batch.bin" if head == 1 else "test.bin"]), strict=True):
        raw = b"".join((folder / name).read_bytes() for name in names)
        size = head + 3072
        for i in (0, 7, len(raw) // size - 1):
            record = raw[i * size : (i + 1) * size]
            assert ours.y[i] == record[column]
            assert ours.x[i, 0, 0, 1] == record[head + 1] and ours.x[i, 1, 2, 3] == record[head + 1024 + 2 * 32 + 3]
        assert len(ours) == len(raw) // size
    assert dataset.facts() == Facts((3, 32, 32), "classes", classes, len(train) * EACH - 10, 10, EACH, 128)


def test_real_cifar_has_every_class_equally_often_and_the_known_channel_means() -> None:
    root = Path(os.environ.get("EFFDL_DATA", "data"))
    if not (root / "cifar-10-batches-bin").is_dir() or not (root / "cifar-100-binary").is_dir():
        pytest.skip(f"no CIFAR under EFFDL_DATA: put cifar-10-batches-bin and cifar-100-binary in {root}")
    for variant, means, each in (("CIFAR10", (0.4914, 0.4822, 0.4465), 5000), ("CIFAR100", (0.5071, 0.4865, 0.4409), 500)):
        train, test = Cifar(variant=variant, root=str(root)).load()  # type: ignore[arg-type]
        assert torch.bincount(train.y).tolist() == [each] * (50_000 // each)
        assert torch.bincount(test.y).tolist() == [each // 5] * (50_000 // each)
        assert (train.x.double().mean((0, 2, 3)) / 255).tolist() == pytest.approx(means, abs=1e-4)


def test_a_pickle_of_unknown_origin_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_python(tmp_path, "CIFAR10", monkeypatch)
    trap = tmp_path / "sprung"
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(Trap(str(trap))))
    with pytest.raises(DataError, match="data_batch_3 is not the published file") as error:
        Cifar(root=str(tmp_path)).load()
    assert not trap.exists() and "\n" not in str(error.value)
    pickle.loads((tmp_path / "cifar-10-batches-py" / "data_batch_3").read_bytes())
    assert trap.exists()  # it would have


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


def test_the_known_checksums_are_torchvisions() -> None:
    for theirs in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        for name, md5 in [*theirs.train_list, *theirs.test_list]:
            assert cifar.MD5[name] == md5


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_is_read_as_torchvision_reads_it(extra: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    svhn(tmp_path, "train", "test", "extra")
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    train, test = Svhn(root=str(tmp_path), extra=extra).load()
    parts = [
        torchvision.datasets.SVHN(str(tmp_path / "SVHN"), split=split)
        for split in (("train", "extra") if extra else ("train",))
    ]
    agrees(train, np.concatenate([part.data for part in parts]), np.concatenate([part.labels for part in parts]))
    theirs = torchvision.datasets.SVHN(str(tmp_path / "SVHN"), split="test")
    agrees(test, theirs.data, theirs.labels)
    facts = Facts((3, 32, 32), "classes", 10, (40 if extra else 20) - 5, 5, 20, 128)
    assert Svhn(root=str(tmp_path), extra=extra, val_size=5).facts() == facts


def test_stl10_is_read_as_torchvision_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stl10(tmp_path)
    (tmp_path / "stl10_binary" / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(torchvision.datasets.STL10, "_check_integrity", lambda self: True)
    dataset = Stl10(root=str(tmp_path), val_size=5)
    for ours, split in zip(dataset.load(), ("train", "test"), strict=True):
        theirs = torchvision.datasets.STL10(str(tmp_path), split=split)
        agrees(ours, theirs.data, theirs.labels)
    assert dataset.facts() == Facts((3, 96, 96), "classes", 10, 15, 5, 20, 128)


SETS: dict[str, tuple[Callable[[Path], None], Callable[[str], Files], str]] = {
    "cifar10": (
        lambda root: cifar_binary(root, "CIFAR10"),
        lambda root: Cifar(root=root),
        "cifar-10-batches-bin/data_batch_2.bin",
    ),
    "cifar100": (
        lambda root: cifar_binary(root, "CIFAR100"),
        lambda root: Cifar(variant="CIFAR100", root=root),
        "cifar-100-binary/train.bin",
    ),
    "svhn": (lambda root: svhn(root, "train", "test"), lambda root: Svhn(root=root), "SVHN/train_32x32.mat"),
    "stl10": (stl10, lambda root: Stl10(root=root), "stl10_binary/train_X.bin"),
}


@pytest.mark.parametrize("name", SETS)
def test_missing_incomplete_and_damaged_sets_are_said_in_one_line(name: str, tmp_path: Path) -> None:
    write, made, file = SETS[name]
    dataset = made(str(tmp_path))
    with pytest.raises(DataError, match=r"^no \w+ under .* is missing\): .*EFFDL_DATA .*download=true$"):
        dataset.facts()
    write(tmp_path)
    before = dataset.fingerprint()
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert dataset.fingerprint() != before
    (tmp_path / file).write_bytes(whole[: len(whole) // 2 - 7])
    with pytest.raises(DataError) as error:
        dataset.facts(), dataset.load()
    assert Path(file).name in str(error.value) and "\n" not in str(error.value)
    (tmp_path / file).unlink()
    with pytest.raises(DataError, match="is incomplete under"):
        dataset.facts()


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_a_download_asks_torchvisions_class_for_the_whole_set_and_finds_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = getattr(torchvision.datasets, name), []

    def fetch(**arguments: Any) -> None:
        inspect.signature(real).bind(**arguments)  # what the class would take
        assert arguments.pop("download") is True
        if name.startswith("CIFAR"):
            cifar_python(Path(arguments["root"]), name, monkeypatch)
        elif name == "SVHN":
            svhn(Path(arguments["root"]).parent, arguments["split"])
        else:
            stl10(Path(arguments["root"]))
        asked.append(arguments)

    made = {"SVHN": Svhn, "STL10": Stl10}.get(name)
    root = str(tmp_path / "data")
    dataset: Files = made(root=root, download=True, val_size=5) if made else Cifar(variant=name, root=root, download=True)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(torchvision.datasets, name, fetch)
        facts = dataset.facts()
        train, test = dataset.load()
    assert len(train) > 0 and len(test) == EACH and facts.outputs == (100 if name == "CIFAR100" else 10)
    assert [call.get("split") for call in asked] == (["train", "test"] if name == "SVHN" else [None])


def test_coarse_labels_are_cifar_100s_alone() -> None:
    with pytest.raises(ValueError, match="coarse"):
        Cifar(labels="coarse")


def test_root_and_download_are_no_part_of_the_identity() -> None:
    members: list[type[Setting]] = [Cifar, Svhn, Stl10]
    assert all({"root", "download"} <= member.not_identity for member in members)
