"""Links: how fast they are, as people type it, and as they read it."""

import re

from effdl.errors import ConfigError, shown
from effdl.records.report import duration

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
LINK = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kMG]?)bit(?:/s)?")


def bits_per_second(text: str) -> float:
    """Of a link, such as 100Mbit or 2.5Gbit/s. Raises ConfigError."""
    found = LINK.fullmatch(text)
    if found is None or not float(found[1]):
        raise ConfigError(f"--link {shown(text)}: a rate such as 100Mbit or 1Gbit")
    return float(found[1]) * UNITS[found[2]]


def rate(bits: float) -> str:
    unit, scale = next((unit, scale) for unit, scale in reversed(UNITS.items()) if bits >= scale or not unit)
    return f"{bits / scale:.3g} {unit}bit/s"


def seconds(taken: float) -> str:
    """Two digits of what is short, so that the ratio of two can be seen."""
    return f"{taken:.2g} s" if taken < 10 else duration(taken)
