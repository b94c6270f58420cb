"""Oxford 102 Flower: flowers of 102 kinds."""

from typing import Any, ClassVar

import numpy as np

from effdl.datasets.annotated import Annotated, checked_labels
from effdl.datasets.listing import Listing
from effdl.errors import DataError, one_line, shown
from effdl.setting import Size, setting

KINDS = 102
SPLITS, LABELS = "setid.mat", "imagelabels.mat"
TRAIN, TEST = ("trnid", "valid"), ("tstid",)


@setting
class Flowers(Annotated):
    """Photographs of 102 kinds of flowers, 2,040 + 6,149: <root>/flowers-102/jpg/image_*.jpg, imagelabels.mat, setid.mat.

    The training split is the published training and validation splits together, ten images a kind of each, as is usual where a
    network is fine-tuned on them; the test split is the published one.
    Source: Nilsback and Zisserman 2008; thesis §6.7.1, tables 6.4 and 6.5.
    """

    title: ClassVar[str] = "Flowers102"
    images: ClassVar[str] = "jpg"
    annotations: ClassVar[tuple[str, ...]] = (SPLITS, LABELS)

    name: str = "flowers-102"
    val_size: Size = 204

    @property
    def test_size(self) -> int:
        return 6_149

    def annotated(self) -> tuple[Listing, Listing]:
        (labels,) = self._variables(LABELS, "labels")
        counted = checked_labels(labels, KINDS, shown(self.folder), LABELS)
        parts = dict(zip((*TRAIN, *TEST), self._variables(SPLITS, *TRAIN, *TEST), strict=True))
        for name, ids in parts.items():
            if bad := [int(i) for i in ids if not 1 <= i <= len(counted)]:
                raise DataError(
                    f"{shown(self.folder)}: {name} in {SPLITS} has image {bad[0]}, but {LABELS} has labels of images 1 to "
                    f"{len(counted)}: they are of different sets, fetch both again"
                )
        train, test = (np.concatenate([parts[name] for name in names]) for names in (TRAIN, TEST))
        return self._listing("trnid+valid", train, counted), self._listing("tstid", test, counted)

    def _listing(self, split: str, ids: Any, labels: Any) -> Listing:
        paths = np.array([f"{self.images}/image_{i:05d}.jpg".encode() for i in ids])
        return Listing(split, tuple(str(kind) for kind in range(1, KINDS + 1)), paths, labels[ids - 1])

    def _variables(self, file: str, *names: str) -> list[Any]:
        """Rows of whole numbers of a MATLAB file."""
        from scipy.io import loadmat

        path = self.folder / file
        try:
            content = loadmat(path)
        except Exception as error:  # scipy raises many kinds for a damaged file
            raise DataError(f"{shown(path)} cannot be read: {one_line(error)}; delete it and fetch it again") from None
        found = [np.asarray(content[name]).ravel() for name in names if name in content]
        if len(found) < len(names) or any(row.dtype.kind not in "iu" or not len(row) for row in found):
            there = ", ".join(f"{name} {np.shape(value)}" for name, value in content.items() if not name.startswith("__"))
            raise DataError(
                f"{shown(path)} is not the published file: it has {there or 'nothing'}, and not whole numbers as "
                f"{', '.join(names)}; delete it and fetch it again"
            )
        return [row.astype(np.int64) for row in found]
