"""What every choice in a config is: a frozen, validated dataclass that its YAML names by ``_target_``."""

import re
from typing import Annotated, Any, ClassVar, TypeVar, cast, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")

Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=1)]
Size = Annotated[int, Field(strict=True, ge=0)]
Real = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
# Text like a number, which a command line gives as one
AsText = BeforeValidator(lambda value: str(value) if type(value) is int else value)
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


class Setting:
    """Base of all config groups.

    ``numerics_version`` goes up whenever the same fields begin to give other numbers, or a default changes.
    ``not_identity`` names the fields (paths, worker counts) that do not change what a run computes.
    """

    numerics_version: ClassVar[int] = 1
    not_identity: ClassVar[frozenset[str]] = frozenset()

    def version(self) -> int:
        """The ``numerics_version`` since which these values give the numbers that they give: the class's, or an older one
        where a class knows that what changed reaches other values alone."""
        return self.numerics_version

    @property
    def known_as(self) -> str | None:
        """What people call it where its choice's name says less, such as a network of a library."""
        return None

    @classmethod
    def snake_name(cls) -> str:
        """The class's name in snake case, such as k_filter of KFilter: the stem of the YAML with its defaults, the key of a
        choice among several."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()


@dataclass_transform(frozen_default=True, kw_only_default=True)
def setting(cls: type[T]) -> type[T]:
    """Make a class a frozen keyword-only dataclass that refuses unknown keys and values out of range."""
    made: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))(cls)
    return cast(type[T], made)
