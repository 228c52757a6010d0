"""Matrix products of adapters on a CPU, added in place to the rows of a batch that the plan assigns to an adapter.

Each adapter's rows are multiplied with its own weights only, so even NaN weights cannot affect other rows.
"""

import torch

from pointsman_vllm_cpu_lora.segments import MIN_RUN_ROWS, Group, Plan, Stacked

MAX_SMALL_RESULT = 2**17
"""The largest number of values in a layer's result for which a few rows are computed in 32 bits, the type of the
weights. Up to this size, products in 16 bits take up to four times as long, because the overhead of the call dominates.
Above it, arithmetic and memory dominate, and 16 bits are faster."""


def add(plan: Plan, y: torch.Tensor, x: torch.Tensor, weights: Stacked, scale: float) -> None:
    """Adds scale * (x[row] @ A.T) @ B to y[row] for each row with an adapter, with this adapter's A and B. The shapes
    are `y` [tokens, outputs] and `x` [tokens, inputs].

    `x` and `y` may have any dtype. Raises ValueError if the plan has more rows than `x`.
    """
    if plan.tokens > x.shape[0]:
        raise ValueError(f"the plan has {plan.tokens} rows, the layer's input {x.shape[0]}")
    for run in plan.runs:
        dtype = _compute_dtype(run.rows, run.rows, x, weights)
        shrunk = x[run.start : run.stop].to(dtype) @ weights.a[run.slot].to(dtype).t()
        _add_run(y[run.start : run.stop], shrunk, weights.b[run.slot].to(dtype), scale)
    for group in plan.groups:
        dtype = _compute_dtype(group.shape[1], group.gather.numel(), x, weights)
        gathered = x.index_select(0, group.gather).to(dtype).view(*group.shape, -1)
        shrunk = gathered.bmm(_of(weights.a, group).to(dtype).transpose(1, 2))
        _add_group(group, y, shrunk.bmm(_of(weights.b, group).to(dtype)), scale)


def shrink(plan: Plan, y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, scale: float) -> None:
    """Sets y[row] = scale * x[row] @ A.T for each row with an adapter. The shapes are `a` [slots, rank, inputs] and `y`
    [tokens, at least rank]; `y` often has 32 bits.
    """
    for slot, rows in plan.rows_by_slot():
        y[rows, : a.shape[1]] = ((x[rows].to(a.dtype) @ a[slot].t()) * scale).to(y.dtype)


def expand(plan: Plan, y: torch.Tensor, x: torch.Tensor, b: torch.Tensor, *, add_inputs: bool) -> None:
    """Sets y[row] = x[row] @ B.T for each row with an adapter, or adds the product to y[row] if `add_inputs` is true.
    The shapes are `b` [slots, outputs, rank] and `x` [tokens, rank].
    """
    for slot, rows in plan.rows_by_slot():
        grown = x[rows].to(b.dtype) @ b[slot].t()
        y[rows] = (y[rows] + grown if add_inputs else grown).to(y.dtype)


def _compute_dtype(rows_of_one: int, rows: int, x: torch.Tensor, weights: Stacked) -> torch.dtype:
    """Returns the dtype to compute in. `rows` is the number of rows of all adapters, and `rows_of_one` that of the
    adapter with the most rows.
    """
    few = rows_of_one < MIN_RUN_ROWS and rows * weights.b.shape[-1] <= MAX_SMALL_RESULT
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
