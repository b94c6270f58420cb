"""The output layer alone in closed form, on hidden layers that are given."""

from effdl.archs.chain import ArchFacts
from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.methods.closed_form import Carried, ClosedForm, Slot
from effdl.methods.features import Fitted
from effdl.setting import setting
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware


@setting
class OutputLayer(ClosedForm):
    """Hidden layers stay as they start, the output layer is Z⁺Y: ours, beside §7.10.3's closed forms before backprop.

    arch.weights=<run>/network.safetensors gives what another method has learned; without, hidden layers are those that training
    would start from.
    """

    @property
    def draws(self) -> tuple[str, ...]:
        return ("initialisation",)

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        super().check(problem, arch, hardware)
        if not self.bias:
            raise ConfigError("method.bias: hidden layers keep their biases, so the output layer has one too; leave it out")

    def layer(self, slot: Slot, carried: Carried, run: RunHandle) -> Fitted:
        return slot.fitted(slot.start())
