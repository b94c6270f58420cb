"""The network of a finished run: as it is saved, and loaded again."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from effdl import config
from effdl.datasets.dataset import Facts
from effdl.errors import RecordError, one_line
from effdl.records import kept
from effdl.records.run import digest
from effdl.records.store import Store


def network_bytes(network: nn.Module) -> bytes:
    """Its tensors by their names, as safetensors."""
    return tensors_bytes(network.state_dict())


def tensors_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return save_tensors({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def load_network(path: str | Path) -> nn.Module:
    """The network that a finished run saved, in eval mode; takes inputs as the data set stores them, gives logits.

    Raises:
        RecordError: no finished run there, or its weights are not those that it recorded.
    """
    path = Path(path)
    store = Store(path.parent.parent, path.name, lambda text: None)
    stored, summary = store.spec(), store.summary()
    if stored is None or summary is None or summary["status"] != "finished":
        raise RecordError(f"{path}: no finished run with a network here")
    settings = {group: config.build_setting(stored["config"][group], group) for group in ("arch", "method", "objective")}
    metrics = summary["summary"]
    try:
        facts = Facts(**{**stored["facts"], "input_shape": tuple(stored["facts"]["input_shape"])})
        network: nn.Module = settings["method"].network(
            settings["arch"].untrained().build(facts), facts, settings["objective"], metrics
        )
    except (KeyError, TypeError) as error:
        raise RecordError(f"{path / 'spec.json'} does not describe a network ({one_line(error)})") from None
    file = path / "network.safetensors"
    try:
        network.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RecordError(f"{file} cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    if digest(network) != metrics["network/sha256"]:
        raise RecordError(f"{file} is damaged: its weights are not those that the run recorded; {kept.AGAIN}")
    return network.eval()
