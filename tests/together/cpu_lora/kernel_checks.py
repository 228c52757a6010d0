"""Checks of the CPU plugin inside the engine's environment: `python kernel_checks.py` prints failures.

That environment has no pytest; test_cpu_lora_plugin.py runs this script once and has a test for each of CHECKS.
"""

import json
import random
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import vllm
from pointsman_vllm_cpu_lora import guard, plugin
from pointsman_vllm_cpu_lora.wrapper import SegmentedPunicaWrapper
from vllm.lora.layers.utils import LoRAMapping
from vllm.lora.punica_wrapper import punica_cpu

UPSTREAM = punica_cpu.PunicaWrapperCPU
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layer:
    a: tuple[torch.Tensor, ...]
    b: tuple[torch.Tensor, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(b.shape[2] for b in self.b)

    @property
    def inputs(self) -> int:
        return int(self.a[0].shape[-1])


class FixedUpstream(punica_cpu.PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not there where types are checked
    """Acts like a vLLM in which the fault is corrected, so that it skips rows without an adapter."""

    def add_lora_linear(self, y: torch.Tensor, *rest: Any, **more: Any) -> None:
        self._leaving_alone(self.token_lora_indices, y, super().add_lora_linear, *rest, **more)

    def add_lora_logits(self, y: torch.Tensor, *rest: Any, **more: Any) -> None:
        self._leaving_alone(self.sampler_indices, y, super().add_lora_logits, *rest, **more)

    @staticmethod
    def _leaving_alone(
        indices: torch.Tensor, y: torch.Tensor, compute: Callable[..., object], *rest: Any, **more: Any
    ) -> None:
        before = y.clone()
        compute(y, *rest, **more)
        y[indices < 0] = before[indices < 0]


def every_row_gets_its_own_adapter_and_a_base_row_none() -> None:
    for slots, is_prefill, dtype in batches():
        wrapper, layer = _wrapper(slots, is_prefill), _layer(dtype)
        x, y = torch.randn(len(slots), layer.inputs, dtype=dtype), torch.randn(len(slots), sum(layer.widths)).to(dtype)
        expected = _by_hand(slots, y, x, layer)
        before = y.clone()
        wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths)
        _assert_rows(slots, before, y, expected)


def a_scale_is_heeded() -> None:
    slots, layer = [0, -1, 1] * 15 + [2] * 40, _layer(torch.float32)
    x, y = torch.randn(len(slots), layer.inputs), torch.zeros(len(slots), sum(layer.widths))
    expected = 0.5 * _by_hand(slots, y, x, layer)
    _wrapper(slots).add_lora_linear(y, x, layer.a, layer.b, 0.5, layer.widths)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)


def logits_are_corrected_row_by_row_in_16_and_32_bits_and_in_a_narrower_vocabulary() -> None:
    for number, (slots, is_prefill, dtype) in enumerate(batches()):
        layer = _layer(dtype, widths=(96,))
        of_logits = torch.float32 if number % 2 else dtype
        x, y = torch.randn(len(slots), layer.inputs, dtype=dtype), torch.randn(len(slots), 90, dtype=of_logits)
        expected = _by_hand(slots, y, x, Layer(layer.a, (layer.b[0][:, :, :90],)))
        before = y.clone()
        _wrapper(slots, is_prefill).add_lora_logits(y, x, layer.a[0], layer.b[0], 1.0)
        _assert_rows(slots, before, y, expected)


def logits_follow_the_sampled_rows_and_not_the_tokens() -> None:
    """Uses two prompts of 40 tokens, one for the base model and one for an adapter; two rows are sampled."""
    wrapper = SegmentedPunicaWrapper(128, 8, CPU)
    wrapper.update_metadata(LoRAMapping((0,) * 40 + (1,) * 40, (0, 1), True), [1], 2, 90)
    layer = _layer(torch.float32, widths=(90,), slots=1)
    x, y = torch.randn(2, layer.inputs), torch.zeros(2, 90)
    wrapper.add_lora_logits(y, x, layer.a[0], layer.b[0], 1.0)
    assert not y[0].any()
    torch.testing.assert_close(y, _by_hand([-1, 0], torch.zeros_like(y), x, layer), atol=1e-4, rtol=1e-4)


def embeddings_are_corrected_row_by_row() -> None:
    for slots, is_prefill, dtype in batches():
        of_tokens, y = torch.randn(len(slots), 6, dtype=dtype), torch.randn(len(slots), 48, dtype=dtype)
        b = torch.randn(4, 1, 48, 6, dtype=dtype)
        expected = y.float().clone()
        for row, slot in enumerate(slots):
            if slot >= 0:
                expected[row] += b[slot, 0].float() @ of_tokens[row].float()
        before = y.clone()
        _wrapper(slots, is_prefill).add_lora_embedding(y, of_tokens, b, add_input=True)
        _assert_rows(slots, before, y, expected)


def shrinking_and_expanding_apart_is_the_same_as_both_at_once() -> None:
    for slots, is_prefill, dtype in batches():
        wrapper, layer = _wrapper(slots, is_prefill), _layer(dtype)
        x, y = torch.randn(len(slots), layer.inputs, dtype=dtype), torch.randn(len(slots), sum(layer.widths)).to(dtype)
        expected, before = _by_hand(slots, y, x, layer), y.clone()
        between = torch.zeros(len(layer.a), len(slots), layer.a[0].shape[2])
        wrapper.add_shrink(between, x, layer.a, 1.0)
        wrapper.add_expand(y, between, layer.b, layer.widths, offset_start=0, add_input=True)
        _assert_rows(slots, before, y, expected)


def weights_that_are_not_finite_reach_nobody_elses_rows() -> None:
    for slots in ([0, 1, -1, 2] * 4, [0] * 40 + [-1] * 40 + [1] * 40 + [2, 1, 0, -1]):
        sound, poisoned = (_layer(torch.bfloat16, seed=7) for _ in range(2))
        for tensor in (*poisoned.a, *poisoned.b):
            tensor[1] = float("nan")
        x = torch.randn(len(slots), sound.inputs, dtype=torch.bfloat16)
        answers = []
        for layer in (sound, poisoned):
            y = torch.zeros(len(slots), sum(layer.widths), dtype=torch.bfloat16)
            _wrapper(slots).add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths)
            answers.append(y)
        others = torch.tensor(slots) != 1
        assert torch.equal(answers[0][others], answers[1][others])
        assert answers[1][~others].isnan().all()


def what_is_written_into_a_slot_counts_from_the_next_batch_on() -> None:
    """Writes as vLLM does: into a part of the slot's tensor, in inference mode, after the layer has been used."""
    slots, layer = [0, 1, -1, 0, 1, 2], _layer(torch.float32)
    wrapper, x = _wrapper(slots), torch.randn(6, layer.inputs)
    with torch.inference_mode():
        wrapper.add_lora_linear(torch.zeros(6, sum(layer.widths)), x, layer.a, layer.b, 1.0, layer.widths)
        for a, b in zip(layer.a, layer.b, strict=True):
            a[1] = 0
            b[1] = 0
            a[1, 0, :3, :].copy_(torch.randn(3, layer.inputs), non_blocking=True)
            b[1, 0, :, :3].copy_(torch.randn(b.shape[2], 3), non_blocking=True)
        y = torch.zeros(6, sum(layer.widths))
        expected = _by_hand(slots, y, x, layer)
        wrapper.add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths)
    torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)


def a_plan_for_more_rows_than_there_are_is_refused() -> None:
    layer = _layer(torch.float32)
    x, y = torch.zeros(2, layer.inputs), torch.zeros(2, sum(layer.widths))
    error = _raised(ValueError, lambda: _wrapper([0, 1, 2]).add_lora_linear(y, x, layer.a, layer.b, 1.0, layer.widths))
    assert "3 rows" in error


def vllms_own_kernels_have_the_fault_and_ours_do_not() -> None:
    assert not guard.is_correct(UPSTREAM)
    assert guard.is_correct(SegmentedPunicaWrapper)
    assert guard.is_needed(vllm.__version__, UPSTREAM)


def kernels_that_leave_base_rows_alone_are_left_in_place_whatever_their_version() -> None:
    assert not guard.is_needed("0.32.0", FixedUpstream)
    assert not guard.is_needed("7.1", FixedUpstream)


def an_unknown_version_with_the_fault_is_refused_and_the_text_says_what_to_do() -> None:
    _assert_refused("0.33.0", UPSTREAM, "base model")


def kernels_that_cannot_be_asked_are_refused_not_guessed_at() -> None:
    _assert_refused("0.32.0", dict, "cannot be tested")


def nothing_is_replaced_off_the_cpu_or_when_switched_off_and_twice_is_once() -> None:
    plugin.correct(is_cpu=False, switch="on")
    plugin.correct(is_cpu=True, switch="off")
    assert punica_cpu.PunicaWrapperCPU is UPSTREAM
    for _ in range(2):
        plugin.correct(is_cpu=True, switch="on")
        assert punica_cpu.PunicaWrapperCPU is SegmentedPunicaWrapper


def batches() -> Iterator[tuple[list[int], bool, torch.dtype]]:
    """Yields random batches (slot of each row, prefill or not, dtype) over four slots; the third is never filled, and
    -1 is frequent.
    """
    chance = random.Random(5)
    torch.manual_seed(5)
    for number in range(60):
        longest, rows = chance.choice((1, 1, 5, 90)), chance.choice((1, 3, 16, 64, 200))
        slots: list[int] = []
        while len(slots) < rows:
            slots += [chance.choice((-1, 0, 1, 3))] * chance.randint(1, longest)
        yield slots, bool(number % 2), chance.choice((torch.float32, torch.bfloat16))


def _wrapper(slots: Sequence[int], is_prefill: bool = True) -> SegmentedPunicaWrapper:
    wrapper = SegmentedPunicaWrapper(1024, 1024, CPU)
    ids = tuple(11 * (slot + 1) for slot in slots)
    wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill), [11, 22, 33, 44], 5, 96)
    return wrapper


def _layer(
    dtype: torch.dtype, widths: Sequence[int] = (40, 24, 24), slots: int = 4, inputs: int = 32, seed: int | None = None
) -> Layer:
    """Returns a layer with adapters of different ranks: smaller ones are padded with zeros, and an empty slot is all
    zeros.
    """
    made = torch.Generator().manual_seed(random.randrange(2**31) if seed is None else seed)
    a = tuple(torch.randn(slots, 1, 6, inputs, generator=made).to(dtype) for _ in widths)
    b = tuple(torch.randn(slots, 1, width, 6, generator=made).to(dtype) for width in widths)
    for tensor in a:
        tensor[0, :, 2:] = 0
    if slots > 2:
        for tensor in (*a, *b):
            tensor[2] = 0
    return Layer(a, b)


def _by_hand(slots: Sequence[int], y: torch.Tensor, x: torch.Tensor, layer: Layer) -> torch.Tensor:
    """Computes the result row by row with 32-bit numbers."""
    expected = y.float().clone()  # for float32, .float() returns the same tensor
    for row, slot in enumerate(slots):
        if slot >= 0:
            parts = [
                b[slot, 0].float() @ (a[slot, 0].float() @ x[row].float())
                for a, b in zip(layer.a, layer.b, strict=True)
            ]
            expected[row] += torch.cat(parts)
    return expected


def _assert_rows(slots: Sequence[int], before: torch.Tensor, y: torch.Tensor, expected: torch.Tensor) -> None:
    base = torch.tensor(slots) < 0
    assert torch.equal(y[base], before[base]), "a base row was changed"
    assert base.all() or not torch.equal(y, before), "nothing was computed"
    # The tolerance is larger if intermediate values are rounded to bfloat16 (8 bits; sums of 6 products of sums of 32).
    errors = (y.float() - expected).abs()
    assert errors.max() < 0.02 * expected.abs().max() + 1e-3, f"off by up to {errors.max()} of {expected.abs().max()}"


def _assert_refused(version: str, wrapper: type, why: str) -> None:
    error = _raised(guard.UnknownVllm, lambda: guard.is_needed(version, wrapper))
    assert all(part in error for part in (version, why, "Pin vLLM", "VLLM_PLUGINS")), error


def _raised(kind: type[Exception], call: Callable[[], object]) -> str:
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


CHECKS = (
    every_row_gets_its_own_adapter_and_a_base_row_none,
    a_scale_is_heeded,
    logits_are_corrected_row_by_row_in_16_and_32_bits_and_in_a_narrower_vocabulary,
    logits_follow_the_sampled_rows_and_not_the_tokens,
    embeddings_are_corrected_row_by_row,
    shrinking_and_expanding_apart_is_the_same_as_both_at_once,
    weights_that_are_not_finite_reach_nobody_elses_rows,
    what_is_written_into_a_slot_counts_from_the_next_batch_on,
    a_plan_for_more_rows_than_there_are_is_refused,
    vllms_own_kernels_have_the_fault_and_ours_do_not,
    kernels_that_leave_base_rows_alone_are_left_in_place_whatever_their_version,
    an_unknown_version_with_the_fault_is_refused_and_the_text_says_what_to_do,
    kernels_that_cannot_be_asked_are_refused_not_guessed_at,
    nothing_is_replaced_off_the_cpu_or_when_switched_off_and_twice_is_once,
)


def main() -> None:
    wrong = {}
    for check in CHECKS:
        try:
            check()
            wrong[check.__name__] = ""
        except Exception:
            wrong[check.__name__] = traceback.format_exc()
    print(json.dumps(wrong))


if __name__ == "__main__":
    main()
