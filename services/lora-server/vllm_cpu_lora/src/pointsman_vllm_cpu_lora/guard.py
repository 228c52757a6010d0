"""Tests whether vLLM's class of LoRA kernels for CPUs computes correctly, by running it on a small input."""

from dataclasses import dataclass
from typing import Any

import torch

KNOWN_VERSIONS = ("0.30.", "0.31.", "0.32.")
"""Prefixes of the vLLM versions for which this plugin's kernels are written and tested."""

_OUTPUTS = _RANK = _INPUTS = 8
_EXPECTED = float(_INPUTS * _RANK)
"""The right result if the input, A and B consist of ones."""


class UnknownVllm(RuntimeError):
    """A vLLM version that this plugin does not know computes LoRA wrongly or cannot be tested. The message says how to
    fix this.
    """

    def __init__(self, version: str, why: str) -> None:
        super().__init__(
            f"vLLM {version} {why}; pointsman-vllm-cpu-lora corrects {', '.join(v + 'x' for v in KNOWN_VERSIONS)}. "
            "The engine does not start, because its answers would be wrong. Pin vLLM to such a version, or install the "
            "plugin's release for this one. Without LoRA the plugin is not needed: VLLM_PLUGINS names the plugins to "
            "load (empty: none)."
        )


@dataclass(frozen=True, slots=True)
class _Mapping:
    """The fields of vLLM's LoRAMapping that its LoRA kernels read: the adapter's id of each token and of each sample; 0
    means no adapter.
    """

    index_mapping: tuple[int, ...]
    prompt_mapping: tuple[int, ...]
    is_prefill: bool


def is_needed(version: str, wrapper: type[Any]) -> bool:
    """Returns whether vLLM's own class of LoRA kernels, `wrapper`, computes wrongly, so that this plugin's class must
    replace it.

    Raises UnknownVllm if `wrapper` cannot be tested, or computes wrongly in a version that is not in `KNOWN_VERSIONS`.
    """
    try:
        if is_correct(wrapper):
            return False
    except Exception as error:  # the wrapper of an unknown version may raise anything
        raise UnknownVllm(version, f"cannot be tested for adapter weights in base rows ({error!r})") from error
    if not version.startswith(KNOWN_VERSIONS):
        raise UnknownVllm(version, "answers rows of the base model with an adapter's weights")
    return True


def is_correct(wrapper: type[Any]) -> bool:
    """Returns whether `wrapper`, a class of LoRA kernels, gives the right results for a row with an adapter and a row
    without one, in prefill and in decoding, in a linear layer and in the logits.

    Raises the errors of the wrapper.
    """
    return all(_answers(wrapper, is_prefill) == [0.0, _EXPECTED] * 2 for is_prefill in (True, False))


def _answers(wrapper: type[Any], is_prefill: bool) -> list[float]:
    """Returns the results of `wrapper` for two rows, one without an adapter and one with an adapter, in a linear layer
    and in the logits. The only slot holds an adapter, so a faulty wrapper reads its weights at index -1 for the row
    without an adapter.
    """
    asked = wrapper(max_num_batched_tokens=2, max_batches=2, device=torch.device("cpu"))
    asked.update_metadata(_Mapping((0, 1), (0, 1), is_prefill), [1], 2, 2 * _OUTPUTS)
    a, b = torch.ones(1, 1, _RANK, _INPUTS), torch.ones(1, 1, _OUTPUTS, _RANK)
    x, linear, logits = torch.ones(2, _INPUTS), torch.zeros(2, _OUTPUTS), torch.zeros(2, _OUTPUTS)
    asked.add_lora_linear(linear, x, (a,), (b,), 1.0, (_OUTPUTS,))
    asked.add_lora_logits(logits, x, a, b, 1.0)
    return [*linear[:, 0].tolist(), *logits[:, 0].tolist()]
