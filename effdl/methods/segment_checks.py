"""What of segmentwise training does not go together, said before anything is built."""

from typing import TYPE_CHECKING

from effdl.datasets.dataset import Facts
from effdl.errors import ConfigError
from effdl.training.decision import DownConv, Pool
from effdl.training.hardware import Hardware

if TYPE_CHECKING:
    from effdl.methods.segmentwise import Segmentwise


def check_together(method: "Segmentwise") -> None:
    """All that speaks of one segment's turn after another's."""
    of_turns = {"rounds": 1, "permute": False, "overlap": 0, "epochs_factor": 1, "patience": None, "record_at": None}
    for name, without in of_turns.items():
        if getattr(method, name) != without:
            raise ConfigError(f"method.{name} is of segments that take turns, with method.together they have none: set one")
    if isinstance(method.epochs, tuple) and len(set(method.epochs)) > 1:
        raise ConfigError("method.epochs: segments that learn together learn for as many epochs: give one number")


def check_loss(method: "Segmentwise", problem: Facts) -> None:
    """Its local loss, and what that needs."""
    if method.loss is None:
        return
    method.loss.check(problem)
    if method.loss.wants_inputs and method.record_at is not None:
        raise ConfigError(
            "method.record_at: of the images, from which this method.loss learns beside features, nothing is recorded; set one"
        )


def check_memory(method: "Segmentwise", hardware: Hardware) -> None:
    if hardware.compile and method.checkpoint in ("parts", "channels"):
        raise ConfigError(
            f"method.checkpoint={method.checkpoint}: compiled blocks have no parts; hardware.compile=false, or block"
        )
    if method.memory_budget is None:
        return
    if hardware.compile:
        raise ConfigError("method.memory_budget: what compiled blocks take is not counted; hardware.compile=false")
    if method.together:
        if method.checkpoint is not None:
            raise ConfigError(
                "method.memory_budget chooses what segments that learn together recompute, method.checkpoint too: set one"
            )
        return
    if not isinstance(method.decision, DownConv) and method.decision != Pool():
        raise ConfigError(
            "method.memory_budget: the decision blocks that it searches are down-convs: method/decision=down_conv_4"
        )


def check_growth(method: "Segmentwise", problem: Facts, key: str) -> None:
    """key: of the first field that says when it ends."""
    for name, value in (("rounds", method.rounds > 1), ("permute", method.permute), ("together", method.together)):
        if value:
            raise ConfigError(f"method.{key} ends at a segment, with method.{name} none is trained to its end: set one alone")
    if method.choose == "last":
        raise ConfigError(f"method.{key} goes by validation, and by it the network ends: set method.choose=validation")
    if not problem.val:
        raise ConfigError(f"method.{key} goes by validation samples, of which there are none: set dataset.val_size above 0")
    if problem.targets == "classes" and method.grow_until is not None and method.grow_until > 1:
        raise ConfigError(f"method.grow_until={method.grow_until:g} is no accuracy: they go to 1, and 0.97 is 97%")
