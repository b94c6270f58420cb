"""Entropies of layers, and what they know of classes, along a chain of discrete representations (thesis §5.3.5)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from effdl.objectives.objective import at_least_float32
from effdl.probes.of_layers import OfSample
from effdl.probes.sample import can_see, ends, groups, head_of
from effdl.representations.information import equal_rows, in_intervals, of_values
from effdl.setting import Count, setting
from effdl.training.look import Look


@setting
class LayerInformation(OfSample):
    """What layers tell apart of a sample, in bits: ``entropy/<layer>``, H(Z); ``conditional/<layer>``, H(Y|Z); and
    ``information/<layer>``, I(Y; Z). ``classes``: H(Y).

    A representation of reals tells all samples apart, and has nothing to say. So what each layer puts out lies in ``bins``
    intervals of its range, and the layer above is made of these: representations are a chain X → Z₁ → … of discrete values,
    each a function of the one below, of which eq. 5.6 must hold. Entropies are those of frequencies, so that H(Z) is at most
    log2 of how many samples there are; wide layers have it all the way up.

    Of targets that are real each distinct one is a value of Y.

    bins: intervals of equal width, in the input's range too; 30 is usual of tanh. samples: all places of maps count.
    """

    samples: Count = 2000
    bins: Count = 30

    def measure(self, look: Look) -> Mapping[str, float]:
        if not can_see(look):
            return {}
        assert look.learning is not None and look.learning.problem is not None
        y = self.sample.targets(look.learning.problem)
        classes = equal_rows(y.reshape(len(y), -1))[1]
        found = {"classes": of_values(classes, classes).entropy}
        for layer, value in self._chain(look):
            told = of_values(value, classes.to(value.device))
            found |= {f"entropy/{layer}": told.entropy, f"conditional/{layer}": told.conditional}
            found[f"information/{layer}"] = told.mutual
        return found

    def _chain(self, look: Look) -> Iterator[tuple[str, Tensor]]:
        """Of each layer, the samples' values (n,), as indices; layers below those that learn are gone through."""
        assert look.learning is not None and look.learning.problem is not None
        split, index = self.sample.of(look.learning.problem)
        first, *below = look.learning.below
        size = look.learning.problem.batch_size
        with look.learning.rule.hardware.autocast():
            z = torch.cat([at_least_float32(first(batch.x)) for batch in split.gather(index.split(size))])
            rows, value = self._distinct(z, torch.arange(len(z), device=z.device))
            yield ends(look)[0], value
            head = head_of(look)
            own = [*look.blocks.named_children(), *([] if head is None else [(ends(look)[1], head)])]
            for name, module in [*((None, one) for one in below), *own]:
                rows, value = self._distinct(self._through(name, module, rows, size), value)
                if name is not None:
                    yield name, value

    def _through(self, name: str | None, module: nn.Module, rows: Tensor, size: int) -> Tensor:
        """What a layer makes of distinct samples, so many at a time; it has to fit in the memory."""
        found = list[Tensor]()
        for part in rows.split(size):
            found.append(at_least_float32(module(part)))
            whole = found[0][:1].nbytes * len(rows)
            list(groups({name or "below": whole}, self.memory_mib * 2**20, self.places["who"], len(rows)))
        return torch.cat(found)

    def _distinct(self, z: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct ones of z (u, ...), in intervals, and which of them each sample has, from which of z it has."""
        z = in_intervals(z, self.bins)
        first, which = equal_rows(z)
        return z[first], which[value]
