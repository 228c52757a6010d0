"""Where the weights of all slots of a layer lie, so that one product serves all the layer's slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Stacked:
    """vLLM's A and B of a layer, one pair a slice (query, key and value are slices of one layer), laid side by side.

    The slices' own tensors become windows into these two: what vLLM writes into a slot is here at once, there is no
    copy that could be of another adapter. They hold 32 bits a number, whatever the model's: products of the few rows of
    decoding take a third of the time so (kernels.py), for twice the memory that vLLM asked for a slot.
    """

    a: torch.Tensor
    """[slots, slices * rank, inputs]"""
    b: torch.Tensor
    """[slots, slices * rank, all outputs]: each slice's B, transposed, on the diagonal; zeros beside it, for good."""


def lay_side_by_side(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> Stacked:
    """`a` [slots, 1, rank, inputs] and `b` [slots, 1, outputs, rank] of each slice keep shapes, values and identity;
    their dtype becomes float32.

    Raises ValueError where they have other shapes.
    """
    slots, _, rank, inputs = a[0].shape
    widths = [b_slice.shape[2] for b_slice in b]
    if any(a_slice.shape != (slots, 1, rank, inputs) for a_slice in a) or any(
        b_slice.shape != (slots, 1, width, rank) for b_slice, width in zip(b, widths, strict=True)
    ):
        raise ValueError(f"slices that do not fit together: {[tuple(one.shape) for one in (*a, *b)]}")
    with torch.inference_mode(False):  # its tensors could not be written to outside of it
        stacked = Stacked(
            torch.zeros(slots, len(a) * rank, inputs, dtype=torch.float32, device=a[0].device),
            torch.zeros(slots, len(b) * rank, sum(widths), dtype=torch.float32, device=b[0].device),
        )
        column = 0
        for number, (a_slice, b_slice, width) in enumerate(zip(a, b, widths, strict=True)):
            ranks = slice(number * rank, (number + 1) * rank)
            _become(a_slice, stacked.a[:, ranks].unsqueeze(1))
            _become(b_slice, stacked.b[:, ranks, column : column + width].transpose(1, 2).unsqueeze(1))
            column += width
    return stacked


def _become(tensor: torch.Tensor, window: torch.Tensor) -> None:
    window.copy_(tensor)
    tensor.data = window
