"""What lossless compression makes of raw floats (thesis §3.1, where it is set aside)."""

from effdl.compression.content import raw
from effdl.compression.lossless import deflate, lzw
from effdl.probes.matrices import matrices, with_head
from effdl.probes.probe import Probe
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class Lossless(Probe):
    """``lzw/<layer>`` and ``deflate/<layer>``: bytes after over bytes before, of each weight matrix as it is stored.

    most: bytes of a matrix that are compressed, from its beginning; LZW takes a second or two for a quarter of a MiB.
    """

    most: Count = 2**18

    def measure(self, look: Look) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, weight in matrices(with_head(look)).items():
            data = raw(weight)[: self.most]
            found |= {f"lzw/{name}": len(lzw(data)) / len(data), f"deflate/{name}": len(deflate(data)) / len(data)}
        return found
