"""The output layer alone in closed form, on hidden layers that are given."""

from effdl.methods.closed_form import ClosedForm, Fitted, Memory, Place
from effdl.setting import setting
from effdl.training.handle import RunHandle


@setting
class OutputLayer(ClosedForm):
    """Hidden layers stay as they start, the output layer is Z⁺Y (§7.10.3).

    arch.weights=<run>/network.safetensors gives what another method has learned; without, hidden layers are those that training
    would start from.
    """

    def layer(self, place: Place, memory: Memory, run: RunHandle) -> Fitted:
        return place.fitted(place.start())
