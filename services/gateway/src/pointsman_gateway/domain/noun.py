"""What travels down the line with every request: frozen to whoever reads it and to the type checker, quick to make."""

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

Made = TypeVar("Made")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def noun(of: type[Made]) -> type[Made]:
    """A dataclass that nobody changes. At run time nothing guards that, which would make each cost thrice as much."""
    return dataclass(slots=True, unsafe_hash=True)(of)
