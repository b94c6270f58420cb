"""What can go wrong, in one line each, and the exit code that says which kind it was."""

import errno
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ADDRESS = re.compile(r" ?<[\w.]+ object at 0x[0-9a-f]+>")  # of an object in memory, which tells nobody anything


class EffdlError(Exception):
    """An error that the user can act on; its text is one line that says what and what to do."""

    exit_code = 1


class ConfigError(EffdlError):
    """A key, value or combination of choices that cannot be run; nothing has been written."""

    exit_code = 2


class DataError(EffdlError):
    """Data that are missing, damaged or too few."""

    exit_code = 3


class RecordError(EffdlError):
    """A record that cannot be written, read or trusted."""

    exit_code = 4


class SearchMissing(RecordError):
    """A cell whose values are searched first, before its search."""


class HardwareError(EffdlError):
    """A device that is not there, or memory that ran out."""

    exit_code = 5


class Diverged(EffdlError):
    """NaN or infinity in a loss or weight: final, because the same run would meet it again."""

    exit_code = 6


class FitFailed(EffdlError):
    """A numerical failure that is itself the answer, such as a singular solve."""

    exit_code = 7


class Stopped(EffdlError):
    """A search saw no promise in a run and stopped it; by itself the same run goes on from its checkpoint."""

    exit_code = 9


class IllConditionedWarning(RuntimeWarning):
    """A linear system is beyond what the precision holds; the text says which, and names remedies."""


FULL, WRITABLE = "free some space", "point `results` to a folder that can be written"
HINTS = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL}
HINTS[errno.ENOENT] = f"{WRITABLE}, from which nothing is deleted meanwhile,"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """An OSError within becomes a RecordError of one line."""
    try:
        yield
    except OSError as error:
        hint = HINTS.get(error.errno or 0, WRITABLE)
        raise RecordError(f"{path}: {error.strerror or error}; {hint} and run the same command again") from error


def crash(error: BaseException) -> str:
    """A crash in one line: what was raised, the line of the user's own code that it came from, else of ours, and how to see
    the rest."""
    frames = traceback.extract_tb(error.__traceback__)
    home = Path(__file__).resolve().parents[1]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(home / "effdl")]
    rooms = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    strange = (*rooms, str(home / "effdl"), str(home / "hydra_plugins"), str(home / "run.py"), "<")
    users = [frame for frame in frames if not frame.filename.startswith(strange)]
    where = next((f"{one.filename}, line {one.lineno}, in {one.name}" for one in [*ours[-1:], *users[-1:]][::-1]), "")
    said = f"{one_line(error)}{f' ({where})' if where else ''}"
    return said if os.environ.get("EFFDL_DEBUG") else f"{said}; EFFDL_DEBUG=1 shows the whole traceback"


def one_line(error: BaseException) -> str:
    """The error's text on one line, with its class where the text alone would not say enough."""
    text = " ".join(ADDRESS.sub("", str(error)).split())
    text = text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if isinstance(error, EffdlError) else f"{type(error).__name__}: {text}"


def shown(name: object) -> str:
    """A name, or path, as it may stand in a line: as Python writes it where it has a newline, an escape or no character."""
    text = str(name)
    return text if text.isprintable() else repr(text)
