"""Oxford-IIIT Pet: cats and dogs of 37 breeds."""

from typing import ClassVar

import numpy as np

from effdl.datasets.annotated import Annotated, checked_labels
from effdl.datasets.listing import Listing
from effdl.datasets.reading import reading
from effdl.errors import DataError, shown
from effdl.setting import Size, setting

BREEDS = 37
TRAIN, TEST = "annotations/trainval.txt", "annotations/test.txt"


@setting
class Pets(Annotated):
    """Photographs of 37 breeds of cats and dogs, 3,680 + 3,669: <root>/oxford-iiit-pet/images/*.jpg, annotations/*.txt.

    The training split is annotations/trainval.txt, the test split annotations/test.txt; a line of these is the image's name,
    its breed from 1, and two numbers that are not read.
    Source: Parkhi, Vedaldi, Zisserman and Jawahar 2012; thesis §6.7.1, tables 6.4 and 6.5.
    """

    title: ClassVar[str] = "OxfordIIITPet"
    images: ClassVar[str] = "images"
    annotations: ClassVar[tuple[str, ...]] = (TRAIN, TEST)

    name: str = "oxford-iiit-pet"
    val_size: Size = 370

    @property
    def test_size(self) -> int:
        return 3_669

    def annotated(self) -> tuple[Listing, Listing]:
        train, test = self._lines(TRAIN), self._lines(TEST)
        breeds = self._breeds([*train, *test])
        return self._listing("trainval", train, TRAIN, breeds), self._listing("test", test, TEST, breeds)

    def _lines(self, file: str) -> list[tuple[str, int]]:
        """The image's name and its label from 1 of each line."""
        with reading(self.folder / file) as opened:
            lines = opened.read().decode(errors="replace").splitlines()
        found: list[tuple[str, int]] = []
        for number, line in enumerate(lines, 1):
            parts = line.split()
            if not parts or line.startswith("#"):
                continue
            if len(parts) != 4 or not parts[1].isdecimal() or "/" in parts[0]:
                raise DataError(
                    f"{shown(self.folder / file)}: line {number} is {shown(line[:40])!r}, not an image's name and three "
                    "numbers, as in 'Abyssinian_100 1 1 1': fetch the file again"
                )
            found.append((parts[0], int(parts[1])))
        if not found:
            raise DataError(f"{shown(self.folder / file)} lists no image: fetch the file again")
        return found

    def _breeds(self, lines: list[tuple[str, int]]) -> tuple[str, ...]:
        """The breeds' names by their labels, which images bear before their number; where a label stands nowhere, itself."""
        known: dict[int, str] = {}
        for image, label in lines:
            breed = image.rpartition("_")[0]
            if known.setdefault(label, breed) != breed:
                raise DataError(
                    f"{shown(self.folder)}: label {label} is {shown(known[label])} and, of image {shown(image)}, {shown(breed)}"
                    ": the annotations are damaged, fetch them again"
                )
        return tuple(known.get(label, str(label)) for label in range(1, BREEDS + 1))

    def _listing(self, split: str, lines: list[tuple[str, int]], file: str, breeds: tuple[str, ...]) -> Listing:
        paths = np.array([f"{self.images}/{name}.jpg".encode() for name, _ in lines])
        labels = checked_labels([label for _, label in lines], BREEDS, shown(self.folder), file)
        return Listing(split, breeds, paths, labels)
