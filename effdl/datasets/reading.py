"""Files opened for reading, and what is said where the disk does not give them."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from effdl.errors import DataError, shown


@contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """A file, unzipped where it is zipped, open for reading; a failure to read it is a DataError that names it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{shown(path)} cannot be read: {error}; delete it and fetch it again") from None
    except OSError as error:
        raise cannot_be_read(path, error) from None


def cannot_be_read(path: str | Path, error: OSError) -> DataError:
    """What the disk does not give, though it may be whole."""
    remedy = {
        PermissionError: "give yourself the right to read it",
        FileNotFoundError: "it was there before; put it back or start again without it",
    }.get(type(error), "see whether its disk is well")
    return DataError(f"{shown(path)} cannot be read: {error.strerror or error}; {remedy}")
