"""`python tests/enlarged.py BYTES FOLDER`: two sets that once took memory without bounds, under RLIMIT_AS.

BYTES more of address space than the imports have taken: a strip of 1×60,000 pixels and one of 60,000×1, and Parquet with the
labels 0 and 1,000,000,000, whose message goes to standard output.
"""

import io
import resource
import sys

import numpy as np
import picture
import pyarrow.parquet  # noqa: F401
from limited import address_space
from PIL import Image, PngImagePlugin  # noqa: F401

from effdl.datasets.decoding import Decoder
from effdl.datasets.parquet import Parquet
from effdl.errors import DataError


def strip(pixels: "np.ndarray") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    more, folder = int(sys.argv[1]), sys.argv[2]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 60_000, 3)).astype(np.uint8)
    Decoder(96)(strip(pixels[:, :20]))  # what the first image loads
    picture.whole(Parquet(root=folder, size=8, val_size=2, workers=0))
    limit = more + address_space()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    middle = pixels[:, 29_990:30_010]  # a pixel becomes 96 of them, so the rest is out of the square
    for whole, part in ((pixels, middle), (pixels.swapaxes(0, 1), middle.swapaxes(0, 1))):
        np.testing.assert_array_equal(Decoder(96)(strip(whole)), Decoder(96)(strip(part)))
    try:
        Parquet(root=folder, name="huge").facts()
    except DataError as error:
        print(error)
    found = Parquet(root=folder, name="huge", size=8, val_size=2, renumber=True, workers=0)
    train, test = picture.whole(found)
    print(found.facts().outputs, *train.y.unique().tolist(), *test.y.unique().tolist())
