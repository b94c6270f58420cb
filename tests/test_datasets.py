"""Data sets, splits and batches: against scikit-learn, torchvision's reader, files written here, and their own promises."""

import gzip
import hashlib
import math
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from effdl.datasets import digits as digits_module
from effdl.datasets.dataset import Facts, split
from effdl.datasets.digits import Digits, DigitsAutoencoder
from effdl.datasets.idx import Idx
from effdl.datasets.problem import Problem, cut
from effdl.datasets.split import Samples
from effdl.datasets.toy import Sine
from effdl.errors import DataError
from effdl.objectives.losses import SoftmaxCe

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def numbered(count: int) -> Samples:
    return Samples(torch.arange(count).float().unsqueeze(1), torch.arange(count) % 2)


def problem(count: int, batch_size: int, seed: int = 0) -> Problem:
    return Problem(numbered(count), numbered(3), SoftmaxCe(), outputs=2, batch_size=batch_size, seed=seed)


# --- digits


def test_digits_are_scikit_learns_each_once_in_training_or_test() -> None:
    bunch = load_digits()
    train, test = Digits().load()
    rows = torch.cat([train.x, test.x]).flatten(1).tolist()
    labels = torch.cat([train.y, test.y]).tolist()
    theirs = zip(bunch.data.astype(int).tolist(), bunch.target.tolist(), strict=True)
    assert sorted(zip(rows, labels, strict=True)) == sorted(theirs)
    assert train.x.dtype == torch.uint8 and train.x.shape == (1442, 1, 8, 8) and int(train.x.max()) == 16


def test_digits_test_split_is_every_fifth_image_of_a_class_and_the_same_for_all_seeds() -> None:
    _, test = Digits().load()
    bunch = load_digits()
    expected: dict[int, list[list[int]]] = {}
    for label in range(10):
        expected[label] = bunch.data[bunch.target == label].astype(int)[4::5].tolist()
    for label in range(10):
        assert test.x[test.y == label].flatten(1).tolist() == expected[label]
    counts = torch.bincount(test.y)
    assert len(test) == 355 and counts.min() >= 34 and counts.max() <= 36
    assert Digits().facts() == Facts((1, 8, 8), "classes", 10, 1200, 242, 355, 64)


def test_digits_of_an_autoencoder_are_the_same_with_their_pixels_as_targets() -> None:
    for theirs, ours in zip(Digits().load(), DigitsAutoencoder().load(), strict=True):
        images = theirs.tensors().x
        assert torch.equal(ours.x, images) and torch.equal((ours.y * 16).reshape(images.shape), images.float())
    facts = DigitsAutoencoder().facts()
    assert (facts.outputs, facts.targets, facts.target_range) == (64, "vectors", (0.0, 1.0))


def test_digits_fingerprint_is_the_checksum_of_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    bunch = load_digits()
    data = bunch.images.astype(np.uint8).tobytes() + bunch.target.astype(np.int64).tobytes()
    assert Digits().fingerprint() == hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(digits_module, "SHA256", "0" * 64)
    with pytest.raises(DataError, match="checksum"):
        Digits().load()


def test_digits_are_the_same_where_scikit_learns_file_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = Digits().load()
    monkeypatch.setattr(digits_module, "find_spec", lambda name: None)
    for ours, by_loader in zip((train, test), Digits().load(), strict=True):
        assert torch.equal(ours.x, by_loader.x) and torch.equal(ours.y, by_loader.y)


# --- IDX files


def write_idx(path: Path, array: np.ndarray, *, zipped: bool = False, magic: int | None = None) -> None:
    """An IDX file from its specification: two zero bytes, type 8 (unsigned byte), dimensions, sizes, all big-endian."""
    header = struct.pack(">HBB", 0, 8, array.ndim) if magic is None else struct.pack(">I", magic)
    data = header + b"".join(struct.pack(">I", size) for size in array.shape) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        with gzip.open(path.with_name(path.name + ".gz"), "wb") as file:
            file.write(data)
    else:
        path.write_bytes(data)


def tiny_set(root: Path, zipped: bool = False, variant: str = "MNIST") -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    arrays = []
    for name, count in zip(FILES, (40, 40, 20, 20), strict=True):
        shape = (count, 5, 7) if "images" in name else (count,)
        arrays.append(generator.integers(0, 256, shape) if "images" in name else np.arange(count) % 10)
        write_idx(root / variant / "raw" / name, arrays[-1], zipped=zipped)
    return arrays


def test_tiny_idx_files_load_as_written(tmp_path: Path) -> None:
    arrays = tiny_set(tmp_path)
    dataset = Idx(root=str(tmp_path), val_size=10, batch_size=8)
    train, test = dataset.load()
    np.testing.assert_array_equal(train.x.numpy()[:, 0], arrays[0])
    np.testing.assert_array_equal(train.y.numpy(), arrays[1])
    np.testing.assert_array_equal(test.x.numpy()[:, 0], arrays[2])
    np.testing.assert_array_equal(test.y.numpy(), arrays[3])
    assert dataset.facts() == Facts((1, 5, 7), "classes", 10, 30, 10, 20, 8)


def test_zipped_and_unzipped_files_are_the_same_data(tmp_path: Path) -> None:
    tiny_set(tmp_path / "plain"), tiny_set(tmp_path / "zipped", zipped=True)
    plain, zipped = (Idx(root=str(tmp_path / name), val_size=10) for name in ("plain", "zipped"))
    assert plain.fingerprint() == zipped.fingerprint()
    for a, b in zip(plain.load(), zipped.load(), strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


@pytest.mark.parametrize("name", FILES)
def test_one_other_pixel_or_label_is_another_fingerprint(name: str, tmp_path: Path) -> None:
    arrays = tiny_set(tmp_path)
    dataset = Idx(root=str(tmp_path))
    before = dataset.fingerprint()
    array = arrays[FILES.index(name)]
    array.flat[-1] = (array.flat[-1] + 1) % 10
    write_idx(tmp_path / "MNIST" / "raw" / name, array)
    assert dataset.fingerprint() != before


def test_the_environment_names_the_folder_unless_root_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_set(tmp_path / "here")
    monkeypatch.setenv("EFFDL_DATA", str(tmp_path / "here"))
    assert Idx().facts().input_shape == (1, 5, 7)
    with pytest.raises(DataError, match=r"dataset\.root or EFFDL_DATA .* dataset\.download=true") as error:
        Idx(root=str(tmp_path / "there")).facts()
    assert str(tmp_path / "there" / "MNIST" / "raw") in str(error.value)


def test_a_download_without_torchvision_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    with pytest.raises(DataError, match=r"pip install 'effdl\[vision\]'") as error:
        Idx(root=str(tmp_path), download=True).facts()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("variant", ["MNIST", "FashionMNIST", "KMNIST"])
def test_every_variant_lies_where_torchvision_keeps_it(variant: str, tmp_path: Path) -> None:
    import torchvision.datasets

    tiny_set(tmp_path, variant=variant)
    dataset = Idx(root=str(tmp_path), variant=variant)  # type: ignore[arg-type]
    for samples, training in zip(dataset.load(), (True, False), strict=True):
        theirs = getattr(torchvision.datasets, variant)(str(tmp_path), train=training)
        assert torch.equal(samples.x.squeeze(1), theirs.data) and torch.equal(samples.y, theirs.targets)
    assert theirs.mirrors and theirs.resources  # where dataset.download=true would fetch it


def test_a_set_with_one_split_says_which_file_is_missing_and_what_to_do(tmp_path: Path) -> None:
    tiny_set(tmp_path, zipped=True, variant="KMNIST")
    for name in FILES[:2]:
        (tmp_path / "KMNIST" / "raw" / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=r"^KMNIST is incomplete .*EFFDL_DATA .*dataset\.download=true$") as error:
        Idx(root=str(tmp_path), variant="KMNIST").facts()
    assert f"({FILES[0]}[.gz] is missing)" in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_named_in_one_line(tmp_path: Path) -> None:
    arrays = tiny_set(tmp_path)
    folder, dataset = tmp_path / "MNIST" / "raw", Idx(root=str(tmp_path))
    whole = (folder / FILES[0]).read_bytes()
    for damaged, text in (
        (whole[:-1], "truncated or damaged"),
        (whole + b"\0", "truncated or damaged"),
        (whole[:7], "shorter than an IDX header"),
        (b"\x1f\x8b" + whole[2:], "magic number"),
    ):
        (folder / FILES[0]).write_bytes(damaged)
        with pytest.raises(DataError, match=text) as error:
            dataset.facts(), dataset.load()
        assert FILES[0] in str(error.value) and "\n" not in str(error.value)
    (folder / FILES[0]).unlink()
    (folder / f"{FILES[0]}.gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        dataset.load()
    (folder / f"{FILES[0]}.gz").unlink()
    write_idx(folder / FILES[0], arrays[0][:-1])
    with pytest.raises(DataError, match="39 training images but 40 labels"):
        dataset.facts()


def real(variant: str) -> Path:
    root = Path(os.environ.get("EFFDL_DATA", "data"))
    if not (root / variant / "raw" / FILES[0]).is_file():
        pytest.skip(
            f"no {variant} under EFFDL_DATA: run once with dataset.download=true, or put its IDX files in {root}/{variant}/raw"
        )
    return root


@pytest.mark.parametrize("variant", ["MNIST", "FashionMNIST"])
def test_real_sets_equal_torchvisions_reading_zipped_or_not(variant: str, tmp_path: Path) -> None:
    import torchvision.datasets

    root = real(variant)
    dataset = Idx(root=str(root), variant=variant)  # type: ignore[arg-type]
    assert dataset.facts() == Facts((1, 28, 28), "classes", 10, 55000, 5000, 10000, 128)
    for samples, training in zip(dataset.load(), (True, False), strict=True):
        theirs = getattr(torchvision.datasets, variant)(str(root), train=training)
        assert torch.equal(samples.x.squeeze(1), theirs.data) and torch.equal(samples.y, theirs.targets)
    folder = tmp_path / variant / "raw"
    folder.mkdir(parents=True)
    for name in FILES:
        with gzip.open(folder / f"{name}.gz", "wb", compresslevel=1) as file:
            file.write((root / variant / "raw" / name).read_bytes())
    zipped = Idx(root=str(tmp_path), variant=variant)  # type: ignore[arg-type]
    assert zipped.fingerprint() == dataset.fingerprint()
    assert torch.equal(zipped.load()[1].x, dataset.load()[1].x)


def test_the_two_real_sets_have_different_fingerprints() -> None:
    root = real("MNIST")
    real("FashionMNIST")
    assert Idx(root=str(root)).fingerprint() != Idx(root=str(root), variant="FashionMNIST").fingerprint()


# --- sine


def test_sine_is_two_periods_with_its_own_test_draw() -> None:
    train, test = Sine(samples=2000).load()
    for samples in (train, test):
        assert samples.x.shape == samples.y.shape == (2000, 1)
        np.testing.assert_allclose(samples.y.numpy(), np.sin(2 * math.pi * samples.x.double().numpy()), atol=1e-5)
        assert -1 <= samples.x.min() < -0.98 and 0.98 < samples.x.max() <= 1 and abs(samples.x.mean()) < 0.06
    assert len(set(train.x.flatten().tolist()) & set(test.x.flatten().tolist())) < 5  # equal floats by chance, no shared draw
    again, _ = Sine(samples=2000).load()
    assert torch.equal(train.x, again.x)
    low, high = Sine(samples=2000).facts().target_range or (0, 0)
    assert low <= train.y.min() < low + 0.01 and high - 0.01 < train.y.max() <= high
    assert Sine(samples=2000).fingerprint() != Sine().fingerprint()
    assert Sine(samples=2000, val_size=100).facts() == Facts((1,), "vectors", 1, 1900, 100, 2000, 128, (-1.0, 1.0))


# --- splits


def parts(dataset: Digits, seed: int) -> tuple[set[int], set[int]]:
    train, val = split(dataset, numbered(1442), seed)
    assert len(set(train.x.flatten().tolist())) == len(train) and len(set(val.x.flatten().tolist())) == len(val)
    return set(train.x.flatten().tolist()), set(val.x.flatten().tolist())


def test_splits_are_disjoint_cover_everything_and_depend_on_the_seed_alone() -> None:
    train, val = parts(Digits(), 0)
    assert len(train) == 1200 and len(val) == 242
    assert not train & val and train | val == set(range(1442))
    assert parts(Digits(), 0) == (train, val)
    others = [parts(Digits(), seed)[1] for seed in (1, 2)]
    assert others[0] != others[1] and val not in others
    assert min(val) < 100 and max(val) > 1342  # drawn from all over


def test_a_limit_takes_from_the_training_part_after_the_validation_split() -> None:
    train, val = parts(Digits(), 0)
    fewer, same_val = parts(Digits(train_limit=100), 0)
    assert same_val == val and len(fewer) == 100 and fewer < train
    assert parts(Digits(train_limit=5000), 0) == (train, val)
    assert Digits(train_limit=100).facts().train == 100
    with pytest.raises(DataError, match="val_size=1442 leaves none"):
        split(Digits(val_size=1442), numbered(1442), 0)


def test_samples_keep_their_labels_through_split_and_batches() -> None:
    samples = numbered(1442)
    for part in split(Digits(), samples, 3):
        assert torch.equal(part.y, part.x.flatten().long() % 2)
    for batch in problem(101, 8).train(4):
        assert torch.equal(batch.y, batch.x.flatten().long() % 2) and torch.equal(batch.index, batch.x.flatten().long())


# --- batches


@given(samples=st.integers(1, 500), batch_size=st.integers(1, 130))
def test_batches_add_up_and_none_has_a_single_sample(samples: int, batch_size: int) -> None:
    sizes = cut(samples, batch_size)
    assert sum(sizes) == samples and min(sizes) >= 1
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + 1
    if samples > 1 and batch_size > 1:
        assert 1 not in sizes
    assert len(sizes) <= -(-samples // batch_size)


@given(samples=st.integers(2, 60), batch_size=st.integers(2, 60), epoch=st.integers(0, 3))
def test_an_epoch_is_a_permutation_in_batches_of_the_stated_sizes(samples: int, batch_size: int, epoch: int) -> None:
    batch_size = min(batch_size, samples)
    batches = list(problem(samples, batch_size).train(epoch))
    assert sorted(i for b in batches for i in b.index.tolist()) == list(range(samples))
    assert [len(b.y) for b in batches] == cut(samples, batch_size) and len(batches) == problem(samples, batch_size).steps


def order(seed: int, epoch: int) -> list[int]:
    return [i for b in problem(200, 16, seed).train(epoch) for i in b.index.tolist()]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(7,), (1, 4, 4), (3, 4, 5), (5, 1, 1), (5, 1, 4)])
def test_rows_are_those_that_indexing_gives_in_the_same_strides(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = torch.randn(6, *shape)
    x = x.contiguous(memory_format=layout) if x.dim() == 4 else x.T.contiguous().T
    if x.dim() == 4:
        x = torch.empty(x.shape, memory_format=layout).copy_(x)  # strides of size 1 too are those of the layout
    index = torch.tensor([5, 0, 0, 3])
    found = next(Samples(x, torch.arange(6)).gather([index]))
    torch.testing.assert_close(found.x, x[index], rtol=0, atol=0)
    assert found.x.stride() == x[index].stride() and found.y.tolist() == index.tolist()


def test_orders_differ_by_epoch_and_seed_and_come_again() -> None:
    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 6 and list(range(200)) not in orders
    assert order(1, 2) == orders[-1]
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    order(0, 0)
    assert torch.equal(torch.rand(1), before)  # the global generator has no part in it


def test_validation_batches_keep_the_stored_order() -> None:
    samples = numbered(10)
    batches = list(Problem(samples, samples, SoftmaxCe(), outputs=2, batch_size=4).val())
    assert [b.index.tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert torch.equal(torch.cat([b.x for b in batches]), samples.x)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(DataError, match=r"dataset\.batch_size=11 is larger than the 10 training samples"):
        problem(10, 11)
    assert problem(10, 10).steps == 1
