"""Pure Voronoi maps and pure entropy of layers (thesis §5.3.4, definitions 5 to 7)."""

from collections.abc import Sequence

from torch import Tensor

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.neighbours.voronoi import pure_voronoi
from effdl.probes.of_layers import Meter, OfLayers, check_classes
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class PureVoronoi(OfLayers):
    """A map with few pure cells for each layer, see `neighbours.voronoi`: ``cells/<layer>``, how many there are, and
    ``entropy/<layer>``, the pure entropy in bits, from that of the classes to log2 of the cells. By eq. 5.4 it falls with
    depth.

    samples: cells grow with their number (figure 5.12), and time with the product of both: of 2,000 it takes about a second a
    layer, of 5,000 four.
    """

    samples: Count = 2000

    def check(self, problem: Facts, arch: ArchFacts) -> None:
        super().check(problem, arch)
        check_classes(self, problem)

    def kinds(self) -> Sequence[str]:
        return ["cells", "entropy"]

    def meter(self, look: Look, y: Tensor) -> Meter:
        def meter(layer: str, z: Tensor) -> Sequence[float]:
            found = pure_voronoi(z, y)
            return [float(len(found.centroids)), found.entropy]

        return meter
