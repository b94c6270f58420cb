"""Sketches of what comes into each layer, from which its drift between looks can be told (thesis §6.6, conjecture 1)."""

from effdl.probes.of_layers import OfSample
from effdl.probes.sample import above, can_see
from effdl.probes.weight_sketch import count_sketch
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class InputSketch(OfSample):
    """``<block>``: a list of numbers, see `weight_sketch.count_sketch`, of what comes into a block on the same samples at each
    look, all entries together; see `drift.drift`.

    A block's input moves while blocks below it learn, and is the same at all looks where they do not, as in a segment that is
    trained from the bottom up.

    samples: few do, of large maps. size: numbers of each, so that a distance is right up to about 1 / √(2·size).
    """

    samples: Count = 100
    size: Count = 128

    def measure(self, look: Look) -> dict[str, list[float]]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        split, index = self.sample.of(look.learning.problem)
        (batch,) = split.gather([index])
        x = batch.x
        with look.learning.rule.hardware.autocast():
            for module in look.learning.below:
                x = module(x)
            names = [name for name, _ in look.blocks.named_children()]
            inputs = [x, *(z for _, z in above(look, x))]
        return {name: count_sketch(z, self.size).tolist() for name, z in zip(names, inputs, strict=False)}
