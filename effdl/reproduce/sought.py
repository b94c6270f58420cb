"""What is searched before a cell runs: the question, from which the answer follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from effdl.reproduce.seeds import LOWEST, digest
from effdl.reproduce.vocabulary import Searched

SEED = LOWEST - 3  # of all trials; those from LOWEST on judge, and the two just below may belong to a floor
MISSING = "search missing"  # why a cell has no runs before its search


@dataclass(frozen=True)
class Sought:
    """A search that is declared for a cell.

    artefact: its id. fixed: overrides of all trials.
    """

    artefact: str
    fixed: tuple[str, ...]
    declared: Searched

    @property
    def asked(self) -> dict[str, Any]:
        """Everything that another answer could come from, as JSON values."""
        kept = {key: value for key, value in self.declared.model_dump().items() if key not in ("where", "set")}
        return {**kept, "fixed": list(self.fixed)}

    @property
    def name(self) -> str:
        """Of the study, such as table-6.2-1a2b3c."""
        return f"{self.artefact}-{digest(self.asked)[:6]}"


def question(artefact: str, overrides: Mapping[str, str], declared: Searched) -> Sought:
    """The search of a cell with these overrides, key -> whole text."""
    kept = [text for key, text in overrides.items() if key not in declared.params and key != "seed"]
    return Sought(artefact, (*kept, f"seed={SEED}"), declared)
