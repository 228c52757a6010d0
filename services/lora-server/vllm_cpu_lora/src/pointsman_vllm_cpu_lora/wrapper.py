"""Defines the class of LoRA kernels that replaces vLLM's class for CPUs."""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from pointsman_vllm_cpu_lora import kernels
from pointsman_vllm_cpu_lora.segments import Plan, Stacked, plan, stack_slices

Tensors = tuple[torch.Tensor, ...]


class SegmentedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc] # the checks do not have vLLM
    """A class of LoRA kernels for vLLM on CPUs. It plans each batch once, when vLLM passes the adapter of each row; all
    layers use the plan.
    """

    def __init__(self, max_num_batched_tokens: int, max_batches: int, device: torch.device | str, **more: Any) -> None:
        super().__init__(max_num_batched_tokens, max_batches, device, **more)
        self._tokens = self._samples = Plan(0)
        self._layers: dict[int, tuple[Tensors, Stacked]] = {}

    def update_metadata(self, *mapping: Any, **more: Any) -> None:
        super().update_metadata(*mapping, **more)
        self._tokens = plan(self.token_lora_indices)
        self._samples = plan(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Tensors,
        lora_b_stacked: Tensors,
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: Tensors | None = None,
        **more: Any,
    ) -> None:
        """Adds the adapters' results for a linear layer to `y` [tokens, outputs] in place. `buffer` is not used."""
        known = self._layers.get(id(lora_a_stacked))
        weights = known[1] if known else self._stack_layer(lora_a_stacked, lora_b_stacked, output_slices)
        kernels.add(self._tokens, y, x, weights, scale)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **more: Any,
    ) -> None:
        """Adds the adapters' results to the logits `y` of the sampled rows in place. `y` may have fewer columns than B,
        whose vocabulary may be padded.
        """
        if not lora_a_stacked.any():  # the common case: no adapter changes the output layer of the vocabulary
            return
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        width = min(y.shape[1], lora_b_stacked.shape[2])
        b = lora_b_stacked[:, 0, :width].transpose(1, 2)
        kernels.add(self._samples, y[:, :width], x, Stacked(lora_a_stacked[:, 0], b), scale)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, add_inputs: bool = True, **more: Any
    ) -> None:
        """Adds the product of `x` and B to the rows of `y` with an adapter; if `add_inputs` is false, replaces them by
        it. `x` [tokens, rank] has A's row for each token.
        """
        if x.any() or not add_inputs:
            kernels.expand(self._tokens, y, x, lora_b_stacked[:, 0], add_inputs=add_inputs)

    def add_shrink(
        self, y: Tensors | torch.Tensor, x: torch.Tensor, lora_a_stacked: Tensors, scale: float, **more: Any
    ) -> None:
        """Sets y = scale * x @ A.T for rows with an adapter. Layers that are distributed over several processes call
        this and then `add_expand`.
        """
        x = x.view(-1, x.shape[-1])
        for y_slice, a in zip(y, lora_a_stacked, strict=True):
            kernels.shrink(self._tokens, y_slice.view(-1, y_slice.shape[-1]), x, a[:, 0], scale)

    def add_expand(
        self,
        y: torch.Tensor,
        x: Tensors | torch.Tensor,
        lora_b_stacked: Tensors,
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **more: Any,
    ) -> None:
        y = y.view(-1, y.shape[-1])
        for x_slice, b, width in zip(x, lora_b_stacked, output_slices, strict=True):
            part = y[:, offset_start : offset_start + width]
            kernels.expand(self._tokens, part, x_slice, b[:, 0], add_inputs=add_inputs)
            offset_start += width

    def _stack_layer(self, a: Tensors, b: Tensors, output_slices: tuple[int, ...]) -> Stacked:
        """Returns a layer's weights in two tensors (`Stacked`), which are built at the first call and cached by the id
        of the tuple `a`. The cache keeps the tuple, so that its id is not reused.
        """
        if tuple(output_slices) != tuple(b_slice.shape[2] for b_slice in b):
            raise ValueError(f"slices of {output_slices} outputs, weights of {[tuple(one.shape) for one in b]}")
        weights = stack_slices(a, b)
        self._layers[id(a)] = (a, weights)
        return weights
