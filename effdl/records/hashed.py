"""A checkpoint as it goes to disk: piece by piece, never whole in memory, and its digest with it."""

import hashlib
from typing import BinaryIO

DIGEST = 65  # bytes that a digest in hexadecimal digits and the end of its line take
PIECE = 8 * 2**20


class Hashed:
    """A file to write to, whose digest is known at the end.

    What is written may be tensors that are themselves mapped files (`TensorFile`); the pages are let go of piece by piece.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha = file, hashlib.sha256()
        self._error: OSError | None = None
        self._read = 0  # bytes since pages were let go of

    def write(self, data: bytes | memoryview) -> int:
        """Of an error, which torch would hide behind one of its own, `digest` tells."""
        from effdl.training.tensor_file import release_pages  # where torch has been imported

        whole = memoryview(data).cast("B")
        for start in range(0, len(whole) if self._error is None else 0, PIECE):
            piece = whole[start : start + PIECE]
            self._sha.update(piece)
            try:
                self._file.write(piece)
            except OSError as error:
                self._error = error
                break
            self._read += len(piece)
            if self._read >= PIECE:
                release_pages()
                self._read = 0
        return len(whole)

    def flush(self) -> None:
        """The file's owner flushes it."""

    def digest(self) -> str:
        """Of all that was written, in hexadecimal digits. Raises the OSError that a write met."""
        if self._error is not None:
            raise self._error
        return self._sha.hexdigest()
