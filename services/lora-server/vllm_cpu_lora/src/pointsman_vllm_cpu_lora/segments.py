"""Who computes which rows of a batch: the plan that is made once a step and followed by every layer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

LONG = 32
"""Rows from which on an adapter's rows are worth matrix products of their own: below, what counts is the number of
calls, and a batch of padded products is one call for all adapters; above, it is the arithmetic, and padding costs."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring rows of one adapter, as in a prompt: views do, nothing is copied."""

    slot: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Group:
    """Scattered rows of some adapters, as in decoding, each adapter padded to as many rows as the busiest one has."""

    adapters: int
    slots: torch.Tensor | slice
    """[adapters], where each adapter's weights are; a slice where they are neighbours."""
    gather: torch.Tensor
    """[adapters * padded], the row that stands at each place. A place that pads repeats a row of the same adapter."""
    scatter: torch.Tensor
    """[rows], the place of each row's result, by rising row; the places that pad are in none."""
    rows: torch.Tensor | slice
    """[rows], the rows that get those results: a slice where they are neighbours."""

    @property
    def shape(self) -> tuple[int, int]:
        """(adapters, padded)."""
        return self.adapters, self.gather.numel() // self.adapters


@dataclass(frozen=True, slots=True)
class Plan:
    """Rows in no run and in no group have no adapter, and nobody touches them."""

    tokens: int
    runs: tuple[Run, ...] = ()
    groups: tuple[Group, ...] = ()

    def rows_by_slot(self) -> Iterator[tuple[int, torch.Tensor | slice]]:
        """One adapter after the other, for the products that are made too rarely to be worth batching."""
        for run in self.runs:
            yield run.slot, slice(run.start, run.stop)
        for group in self.groups:
            adapters, padded = group.shape
            real = torch.zeros(adapters * padded, dtype=torch.bool)
            real[group.scatter] = True
            named = group.slots
            slots = range(named.start, named.stop) if isinstance(named, slice) else named.tolist()
            for number, slot in enumerate(slots):
                own = slice(number * padded, (number + 1) * padded)
                yield slot, group.gather[own][real[own]]


def plan(indices: torch.Tensor) -> Plan:
    """`indices` [tokens] has the slot of each row's adapter; a negative one means none."""
    slots, lengths = (found.tolist() for found in torch.unique_consecutive(indices, return_counts=True))
    stops = list(accumulate(lengths))
    found = [
        Run(slot, stop - length, stop) for slot, length, stop in zip(slots, lengths, stops, strict=True) if slot >= 0
    ]
    short = [run for run in found if run.rows < LONG]
    if len(short) < 2:  # a single adapter in decoding, too: nothing to batch it with
        return Plan(indices.numel(), tuple(found))
    scattered: dict[int, list[int]] = {}
    for run in short:
        scattered.setdefault(run.slot, []).extend(range(run.start, run.stop))
    alone = [{slot: rows} for slot, rows in scattered.items() if len(rows) >= LONG]
    together = {slot: rows for slot, rows in sorted(scattered.items()) if len(rows) < LONG}
    groups = tuple(_group(rows_of) for rows_of in (*alone, together) if rows_of)
    return Plan(indices.numel(), tuple(run for run in found if run.rows >= LONG), groups)


def _group(rows_of: dict[int, list[int]]) -> Group:
    padded = max(len(rows) for rows in rows_of.values())
    gather: list[int] = []
    place_of: dict[int, int] = {}
    for rows in rows_of.values():
        place_of.update({row: len(gather) + number for number, row in enumerate(rows)})
        gather += rows + rows[:1] * (padded - len(rows))
    rows = sorted(place_of)
    scatter = _tensor([place_of[row] for row in rows])
    return Group(len(rows_of), _shortest(list(rows_of)), _tensor(gather), scatter, _shortest(rows))


def _shortest(rising: Sequence[int]) -> torch.Tensor | slice:
    first, last = rising[0], rising[-1]
    return slice(first, last + 1) if last - first + 1 == len(rising) else _tensor(rising)


def _tensor(numbers: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.long)
