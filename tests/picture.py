"""Small image sets in files, as tests write them: pictures of one colour a class under noise, in folders or in Parquet."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from effdl.datasets.split import Samples

CLASSES = ("ant", "bee", "cat")


def pixels(label: int, seed: int, side: int = 12) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """(side, side, 3): channel ``label`` brighter than the noise around it."""
    noise = np.random.default_rng(seed).integers(0, 120, (side, side, 3))
    noise[..., label] += 100
    return noise.astype(np.uint8)


def encoded(array: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def folders(root: Path, train: int = 20, val: int = 8, side: int = 12, name: str = "images", **more: int) -> Path:
    """<root>/<name>/{train,val}/<class>/*.png with so many images of each class; returns <root>/<name>."""
    for split, count in {"train": train, "val": val, **more}.items():
        for label, known in enumerate(CLASSES):
            folder = root / name / split / known
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 10_000 * (split != "train") + 1000 * label + i
                (folder / f"{i:03d}.png").write_bytes(encoded(pixels(label, seed, side)))
    return root / name


def whole(dataset: Any) -> tuple[Samples, Samples]:
    """Training and test split of a set that fits, in memory."""
    train, test = (split.to(torch.device("cpu")) for split in dataset.load())
    assert isinstance(train, Samples) and isinstance(test, Samples)
    return train, test


def table(images: list[bytes | None], labels: list[Any], *, names: Any = CLASSES, struct: bool = True, **columns: str) -> Any:
    """A table as the hub writes it, with the classes' names in its schema; columns: other names for "image" and "label"."""
    import pyarrow as pa

    image, label = columns.get("image", "image"), columns.get("label", "label")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
    values = [{"bytes": data, "path": None} for data in images] if struct else images
    made = pa.table({image: pa.array(values, kind), label: labels})
    if names is None:
        return made
    features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def parquet_of(folder: Path, to: Path, shards: int = 2) -> None:
    """The images of a set of folders as Parquet in ``to``/data: several files a split, several row groups a file."""
    import pyarrow.parquet as pq

    (to / "data").mkdir(parents=True)
    for split, called in (("train", "train"), ("val", "validation")):
        classes = sorted(path.name for path in (folder / split).iterdir())
        rows = [
            (path.read_bytes(), label)
            for label, known in enumerate(classes)
            for path in sorted((folder / split / known).iterdir())
        ]
        for shard in range(shards):
            part = rows[len(rows) * shard // shards : len(rows) * (shard + 1) // shards]
            made = table([data for data, _ in part], [label for _, label in part], names=classes)
            pq.write_table(made, to / "data" / f"{called}-{shard:05d}-of-{shards:05d}.parquet", row_group_size=7)
