"""Compression of weights for sending (thesis chapter 3): quantised by layer, coded, and packed so that they are read anywhere.

    packet = encode(model.state_dict())
    other.load_state_dict(decode(packet, like=other.state_dict()))

Which layers are quantised, to how many bits and within which range are plain values: `weights`, `dynamic_bits` (Algorithm 1) or
`bits_by_gradient` (§3.3), and `value_range`. Gradients of torch's DistributedDataParallel go as packets by one line more:

    model.register_comm_hook(HookState(network), hook)
"""

from effdl.compression.bits import bits_by_entropy, bits_by_gradient, dynamic_bits, estimated_entropy
from effdl.compression.ddp import HookState, hook
from effdl.compression.packet import Layer, contents, decode, encode, weights
from effdl.compression.quantisation import Quantised, dequantise, quantise, value_range

__all__ = [
    "HookState",
    "Layer",
    "Quantised",
    "bits_by_entropy",
    "bits_by_gradient",
    "contents",
    "decode",
    "dequantise",
    "dynamic_bits",
    "encode",
    "estimated_entropy",
    "hook",
    "quantise",
    "value_range",
    "weights",
]
