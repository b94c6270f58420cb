"""effdl: train networks by rules other than plain end-to-end backpropagation.

The names below are imported when first used, so that ``import effdl`` and the help page do not wait for torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "BlockChain": "effdl.archs.chain",
    "InputBlock": "effdl.archs.adapt",
    "Batch": "effdl.datasets.batch",
    "Problem": "effdl.datasets.problem",
    "Samples": "effdl.datasets.split",
    "SoftmaxCe": "effdl.objectives.losses",
    "LinearMse": "effdl.objectives.losses",
    "SigmoidBce": "effdl.objectives.losses",
    "TanhMse": "effdl.objectives.losses",
    "ExpGa": "effdl.objectives.amplification",
    "Pow3Ga": "effdl.objectives.amplification",
    "Sgd": "effdl.training.optim",
    "Adagrad": "effdl.training.optim",
    "Adadelta": "effdl.training.optim",
    "Rmsprop": "effdl.training.optim",
    "Adam": "effdl.training.optim",
    "Adamw": "effdl.training.optim",
    "RandomSubset": "effdl.filters.random_subset",
    "KFilter": "effdl.filters.k_filter",
    "EditedNeighbours": "effdl.filters.edited_neighbours",
    "CondensedNeighbours": "effdl.filters.condensed_neighbours",
    "LossFilter": "effdl.filters.loss_filter",
    "El2n": "effdl.filters.el2n",
    "InfoBatch": "effdl.filters.info_batch",
    "SelectiveBackprop": "effdl.filters.selective_backprop",
    "StableRank": "effdl.probes.stable_rank",
    "Pool": "effdl.training.decision",
    "DownConv": "effdl.training.decision",
    "Rule": "effdl.training.rule",
    "DecisionRule": "effdl.training.decision_rule",
    "Learner": "effdl.training.learner",
    "evaluate": "effdl.training.loop",
    "Prefix": "effdl.costs.rehearsal",
    "Rehearsal": "effdl.costs.rehearsal",
    "Backprop": "effdl.methods.backprop",
    "Segmentwise": "effdl.methods.segmentwise",
    "Hardware": "effdl.training.hardware",
    "train_layerwise": "effdl.layerwise",
    "k_redundancy": "effdl.neighbours.k_filter",
    "k_redundant": "effdl.neighbours.k_filter",
    "k_filter": "effdl.neighbours.k_filter",
    "pure_voronoi": "effdl.neighbours.voronoi",
    "nearest_neighbour_accuracy": "effdl.neighbours.editing",
    "edited_nearest_neighbours": "effdl.neighbours.editing",
    "condensed_nearest_neighbours": "effdl.neighbours.editing",
    "least_squares_distance": "effdl.representations.least_squares_distance",
    "selections": "effdl.representations.selections",
    "discriminative_intervals": "effdl.representations.intervals",
    "PlatonicClassifier": "effdl.estimators",
    "PlatonicRegressor": "effdl.estimators",
    "Run": "effdl.records.run",
    "compose": "effdl.config",
    "build": "effdl.config",
    "execute": "effdl.records.execute",
    "load_network": "effdl.records.networks",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effdl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
