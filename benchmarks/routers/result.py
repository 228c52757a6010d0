"""What a benchmark found: a table, and the figures that have a stated target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

NO_TARGETS: Mapping[str, float] = {}


@dataclass(frozen=True)
class Row:
    name: str
    figures: Mapping[str, float]
    """By column; a column without a figure is left out."""
    is_published: bool = False
    """Whether others have published the figures, on other data where the name says so."""


@dataclass(frozen=True)
class Result:
    benchmark: str
    data: str
    """What was measured, for people."""
    columns: tuple[str, ...]
    rows: Sequence[Row]
    figures: Mapping[str, float]
    """The figures of the policy `predicted` that are reported in the JSON."""
    targets: Mapping[str, float] = field(default_factory=dict)
    """The bound of a figure, by name."""
    source: str = ""
    """Of published rows."""

    def as_markdown(self) -> str:
        lines = [f"**{self.benchmark}**: {self.data}.", "", "| router | " + " | ".join(self.columns) + " |"]
        lines.append("|---" * (1 + len(self.columns)) + "|")
        for row in self.rows:
            cells = [_cell(row.figures.get(column)) for column in self.columns]
            lines.append(f"| {row.name}{' (published)' if row.is_published else ''} | {' | '.join(cells)} |")
        return "\n".join([*lines, "", f"Published: {self.source}." if self.source else ""]).rstrip()


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
