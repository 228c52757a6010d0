"""The matrix products of adapters, over those rows alone that a plan gives to an adapter; all of them in place.

Each adapter's rows meet its own weights only, so that not even NaN weights reach another adapter's rows or the base's.
"""

import torch

from pointsman_vllm_cpu_lora.segments import LONG, Group, Plan
from pointsman_vllm_cpu_lora.stacked import Stacked

SMALL = 2**17
"""Numbers in a layer's result up to which few rows are computed in the weights' 32 bits. In 16 such products take up to
four times as long, for the cost of their calls; in larger ones arithmetic and memory count, and 16 bits are faster."""


def add(plan: Plan, y: torch.Tensor, x: torch.Tensor, weights: Stacked, scale: float) -> None:
    """y[row] += scale * (x[row] @ A.T) @ B, of the row's own adapter. y [tokens, outputs], x [tokens, inputs].

    x and y are of any dtype. Raises ValueError where the plan speaks of more rows than there are.
    """
    if plan.tokens > x.shape[0]:
        raise ValueError(f"the plan has {plan.tokens} rows, the layer's input {x.shape[0]}")
    for run in plan.runs:
        dtype = _fastest(run.rows, run.rows, x, weights)
        shrunk = x[run.start : run.stop].to(dtype) @ weights.a[run.slot].to(dtype).t()
        _add_run(y[run.start : run.stop], shrunk, weights.b[run.slot].to(dtype), scale)
    for group in plan.groups:
        dtype = _fastest(group.shape[1], group.gather.numel(), x, weights)
        gathered = x.index_select(0, group.gather).to(dtype).view(*group.shape, -1)
        shrunk = gathered.bmm(_of(weights.a, group).to(dtype).transpose(1, 2))
        _add_group(group, y, shrunk.bmm(_of(weights.b, group).to(dtype)), scale)


def shrink(plan: Plan, y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: float) -> None:
    """y[row] = scale * x[row] @ A.T. `a` [slots, rank, inputs]; y [tokens, rank or more], often in 32 bits."""
    for slot, rows in plan.rows_by_slot():
        y[rows, : a.shape[1]] = ((x[rows].to(a.dtype) @ a[slot].t()) * scale).to(y.dtype)


def expand(plan: Plan, y: torch.Tensor, x: torch.Tensor, b: torch.Tensor, *, add_inputs: bool) -> None:
    """y[row] = x[row] @ B.T, or += of it. `b` [slots, outputs, rank]; x [tokens, rank]; y [tokens, outputs]."""
    for slot, rows in plan.rows_by_slot():
        grown = x[rows].to(b.dtype) @ b[slot].t()
        y[rows] = (y[rows] + grown if add_inputs else grown).to(y.dtype)


def _fastest(rows_of_one: int, rows: int, x: torch.Tensor, weights: Stacked) -> torch.dtype:
    """To compute in. `rows` of all adapters, of which the busiest has `rows_of_one`."""
    few = rows_of_one < LONG and rows * weights.b.shape[-1] <= SMALL
    return weights.a.dtype if few else x.dtype


def _add_run(y: torch.Tensor, shrunk: torch.Tensor, b: torch.Tensor, scale: float) -> None:
    if y.dtype == b.dtype:
        y.addmm_(shrunk, b, alpha=scale)
    else:
        y.add_(shrunk @ b, alpha=scale)


def _of(stacked: torch.Tensor, group: Group) -> torch.Tensor:
    return stacked[group.slots] if isinstance(group.slots, slice) else stacked.index_select(0, group.slots)


def _add_group(group: Group, y: torch.Tensor, grown: torch.Tensor, scale: float) -> None:
    results = grown.flatten(0, 1).index_select(0, group.scatter)
    if isinstance(group.rows, slice):
        y[group.rows].add_(results, alpha=scale)
    else:
        y.index_add_(0, group.rows, results.to(y.dtype), alpha=scale)
