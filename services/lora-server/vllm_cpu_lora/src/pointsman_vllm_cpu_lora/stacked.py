"""Stores the adapter weights of all slots of a layer in two tensors, so that one product serves all slices of the
layer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Stacked:
    """A and B of a layer, whose slices (query, key and value are slices of one layer) are stored side by side.

    The slices' own tensors become views of these two tensors. What vLLM writes into a slot is therefore visible here at
    once,
    and no copy can belong to another adapter. The values have 32 bits in every model: the few rows of decoding are then
    computed in a third of the time (see kernels.py), for twice the memory of a slot.
    """

    a: torch.Tensor
    """[slots, slices * rank, inputs]"""
    b: torch.Tensor
    """[slots, slices * rank, all outputs]: the transposed B of each slice on the diagonal, zeros elsewhere."""


def stack_slices(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> Stacked:
    """Moves `a` [slots, 1, rank, inputs] and `b` [slots, 1, outputs, rank] of all slices into two tensors.

    The slices keep shapes, values and identity; their dtype becomes float32. Raises ValueError for other shapes.
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
