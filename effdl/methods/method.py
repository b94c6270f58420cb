"""The plugin contract: a method is a frozen setting with `check`, and with `training` or `fit`."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from torch import nn

from effdl.archs.chain import ArchFacts, BlockChain
from effdl.costs.segments import segment_costs
from effdl.datasets.dataset import Facts
from effdl.datasets.problem import Problem
from effdl.errors import ConfigError
from effdl.objectives.objective import Objective
from effdl.setting import Setting
from effdl.training.engine import Engine
from effdl.training.handle import RunHandle
from effdl.training.hardware import Hardware
from effdl.training.segments import Training

BY_THE_ENGINE = frozenset({"optimizer", "filter", "probe", "augment", "sync", "processes"})


class Method(Setting, ABC):
    """A learning rule: of a network that the engine trains, by `training`, or of its own, by `fit`.

    ``saves_memory``: what to try where a run is out of memory.
    ``fits_least_squares``: whether it solves for weights instead of descending a loss; then the objective must be the squared
    error of linear units.
    ``takes_pixels``: whether it learns labels of pixels, for which a network has one head above all its blocks: a segment of a
    few blocks, or a matrix of feedback, has no outputs for them.
    """

    fits_least_squares: ClassVar[bool] = False
    takes_pixels: ClassVar[bool] = False
    saves_memory: ClassVar[str] = (
        "a smaller dataset.batch_size, method=dll, method.checkpoint=block with backprop, or a smaller method.keep_features_mib"
    )

    @property
    def takes(self) -> frozenset[str]:
        """Which of these a user may choose for it; choosing another is an error, not silence.

        "optimizer": it updates by one, and needs one. "filter": it trains on what `RunHandle.filter` leaves. "probe": it calls
        `RunHandle.probe`. "augment": it sees training samples anew in each epoch, as `Problem.train` varies them. "sync":
        what it learns goes between processes as `RunHandle.sync` says. "processes": it learns in several processes at once, by
        `RunHandle.ranks`. What the engine trains takes all of them; a method with a
        `fit` of its own says what it takes, by default an optimizer.
        """
        return BY_THE_ENGINE if type(self).training is not Method.training else frozenset({"optimizer"})

    @property
    def draws(self) -> tuple[str, ...]:
        """What another seed draws anew, in words; () where a rule draws nothing, so that seeds differ by rounding alone."""
        return ("initialisation", "order of samples")

    def check(self, problem: Facts, arch: ArchFacts, hardware: Hardware) -> None:
        """Raise a ConfigError for a combination that cannot work; called before any data are read."""
        return

    def chain(self, model: BlockChain) -> BlockChain:
        """The network as the engine is to train it, of the architecture's blocks; by default as it is."""
        return model

    def training(self, problem: Problem, model: BlockChain, run: RunHandle) -> Training | None:
        """The segments that the engine trains, each by its rule, and in which order; None where `fit` is written whole.

        `fit`, a plan, the costs and the search for a budget share it. Called again, as a run is that goes on, it says the same.
        A method whose own `fit` calls another method's gives that one's training here (and its `chain`, where it has one): then
        its runs are planned too.

        Args:
            model: as `chain` made it.
            run: whose optimizer and hardware decide what steps take.
        """
        return None

    def stack_key(self, network: BlockChain) -> Hashable | None:
        """Runs of this method that differ in seed and optimizer alone are trained as one where the keys of their networks are
        equal; None, the default, where each is carried out by itself.

        `fit` stays as it is: what it asks ``run.company`` for, and the engine does so for epochs and measurements, is
        answered for all of them at once. So whatever the engine trains under a rule that has a `Rule.stack_key` for such
        networks can say here when it has: most likely `training.form.stack_form` of the network.
        """
        return None

    def fit(self, problem: Problem, model: BlockChain, run: RunHandle) -> nn.Module:
        """Learn; returns the network to be evaluated, from stored inputs to logits, in eval mode."""
        model = self.chain(model)
        training = self.training(problem, model, run)
        if training is None:
            raise ConfigError(f"method: {type(self).__name__} writes neither training nor fit, see CONTRIBUTING.md")
        engine = Engine(training, problem, model, run)
        with engine.offload:
            if not engine.resume() and run.ranks.rank == 0:  # costs take steps of their own that the others do not make
                kind = self.stack_key(model)
                costs = segment_costs(engine) if kind is None else run.company.share(kind, lambda: segment_costs(engine))
                run.expect(costs, training.keep_bytes)
            return engine.fit()

    @abstractmethod
    def network(self, model: BlockChain, problem: Facts, objective: Objective, notes: Mapping[str, Any]) -> nn.Module:
        """A network of the form that `fit` returned, weights undefined: what a saved one is loaded into.

        Args:
            model: the architecture as built for the problem.
            notes: the run's summary, in which all that `fit` noted stands.
        """
