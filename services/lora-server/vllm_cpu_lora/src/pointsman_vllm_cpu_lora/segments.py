"""Plans which rows of a batch belong to which adapter, and stores a layer's LoRA weights of all slots in two tensors.

The plan is made once for each step of the engine, and all layers use it. One product of the two tensors computes all
slices of the layer, such as query, key and value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

MIN_RUN_ROWS = 32
"""The smallest number of consecutive rows for which an adapter gets its own matrix products. For fewer rows, the number
of calls dominates the time, and one batch of padded products serves all adapters. For more rows, arithmetic dominates,
and padding would cost time."""


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive rows of one adapter in a batch, such as those of a prompt. They are used as views and not copied."""

    slot: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Group:
    """Scattered rows of several adapters in a batch, as in decoding. Each adapter is padded to the number of rows of
    the adapter with the most rows.
    """

    adapters: int
    slots: torch.Tensor | slice
    """Shape [adapters]: the slot of each adapter's weights. A slice if the slots are consecutive."""
    gather: torch.Tensor
    """Shape [adapters * padded]: the row of the batch at each position of the padded product. A padding position
    repeats a row of the same adapter."""
    scatter: torch.Tensor
    """Shape [rows]: the position of each row's result in the padded product, in ascending order of rows. Padding
    positions do not occur."""
    rows: torch.Tensor | slice
    """Shape [rows]: the rows of the batch to which the results at the positions `scatter` belong. A slice if the rows
    are consecutive."""

    @property
    def shape(self) -> tuple[int, int]:
        """Returns the number of adapters, and the number of rows of each including padding."""
        return self.adapters, self.gather.numel() // self.adapters


@dataclass(frozen=True, slots=True)
class Plan:
    """The rows of a batch by adapter. Rows that are in no run and in no group have no adapter and are not changed."""

    tokens: int
    runs: tuple[Run, ...] = ()
    groups: tuple[Group, ...] = ()

    def rows_by_slot(self) -> Iterator[tuple[int, torch.Tensor | slice]]:
        """Yields each slot with the rows of its adapter, for products that are too rare to be batched. A slot may be
        yielded several times.
        """
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
    """Returns the plan of a batch. `indices` [tokens] has the slot of each row's adapter; a negative slot means no
    adapter.
    """
    slots, lengths = (found.tolist() for found in torch.unique_consecutive(indices, return_counts=True))
    stops = list(accumulate(lengths))
    found = [
        Run(slot, stop - length, stop) for slot, length, stop in zip(slots, lengths, stops, strict=True) if slot >= 0
    ]
    short = [run for run in found if run.rows < MIN_RUN_ROWS]
    if len(short) < 2:  # a single adapter in decoding also has nothing to batch with
        return Plan(indices.numel(), tuple(found))
    scattered: dict[int, list[int]] = {}
    for run in short:
        scattered.setdefault(run.slot, []).extend(range(run.start, run.stop))
    alone = [{slot: rows} for slot, rows in scattered.items() if len(rows) >= MIN_RUN_ROWS]
    together = {slot: rows for slot, rows in sorted(scattered.items()) if len(rows) < MIN_RUN_ROWS}
    groups = tuple(_group(rows_of) for rows_of in (*alone, together) if rows_of)
    return Plan(indices.numel(), tuple(run for run in found if run.rows >= MIN_RUN_ROWS), groups)


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


@dataclass(frozen=True, slots=True)
class Stacked:
    """The LoRA weights A and B of a layer, with the weights of its slices (such as query, key and value) side by side.

    The slices' own tensors become views of these two tensors. So the values that vLLM writes into a slot are visible
    here at once, and no copy can belong to another adapter. The values have 32 bits in every model. The few rows of
    decoding are then computed in a third of the time (see kernels.py), for twice the memory of a slot.
    """

    a: torch.Tensor
    """The A of all slices, shape [slots, slices * rank, inputs]."""
    b: torch.Tensor
    """The B of all slices, shape [slots, slices * rank, all outputs]: the transposed B of each slice on the diagonal,
    zeros elsewhere."""


def stack_slices(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> Stacked:
    """Moves the A and B of all slices of a layer into two tensors. Each slice's tensors have the shapes [slots, 1,
    rank, inputs] in `a` and [slots, 1, outputs, rank] in `b`.

    The slices' tensors keep their shapes, values and identity; their dtype becomes float32. Raises ValueError for other
    shapes.
    """
    slots, _, rank, inputs = a[0].shape
    widths = [b_slice.shape[2] for b_slice in b]
    if any(a_slice.shape != (slots, 1, rank, inputs) for a_slice in a) or any(
        b_slice.shape != (slots, 1, width, rank) for b_slice, width in zip(b, widths, strict=True)
    ):
        raise ValueError(f"slices that do not fit together: {[tuple(one.shape) for one in (*a, *b)]}")
    with torch.inference_mode(False):  # tensors made in inference mode cannot be written to outside of it
        stacked = Stacked(
            torch.zeros(slots, len(a) * rank, inputs, dtype=torch.float32, device=a[0].device),
            torch.zeros(slots, len(b) * rank, sum(widths), dtype=torch.float32, device=b[0].device),
        )
        column = 0
        for number, (a_slice, b_slice, width) in enumerate(zip(a, b, widths, strict=True)):
            ranks = slice(number * rank, (number + 1) * rank)
            _replace_by_view(a_slice, stacked.a[:, ranks].unsqueeze(1))
            _replace_by_view(b_slice, stacked.b[:, ranks, column : column + width].transpose(1, 2).unsqueeze(1))
            column += width
    return stacked


def _replace_by_view(tensor: torch.Tensor, window: torch.Tensor) -> None:
    window.copy_(tensor)
    tensor.data = window
