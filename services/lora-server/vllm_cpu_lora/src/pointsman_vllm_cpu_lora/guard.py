"""Whether a wrapper of vLLM's computes right, found out by asking it; and whether its version is one that we know."""

from dataclasses import dataclass
from typing import Any

import torch

KNOWN = ("0.32.",)
"""Versions of vLLM that the kernels were read beside and tested with."""

_OUTPUTS = _RANK = _INPUTS = 8
_RIGHT = float(_INPUTS * _RANK)
"""x of ones, through an A of ones and a B of ones."""


class UnknownVllm(RuntimeError):
    """A vLLM that answers base rows with an adapter's weights, in a version not known to us; the text has the fix."""

    def __init__(self, version: str, why: str) -> None:
        super().__init__(
            f"vLLM {version} {why}; pointsman-vllm-cpu-lora corrects {', '.join(known + 'x' for known in KNOWN)} only. "
            "Nothing is served, lest it be wrong. Pin vLLM to such a version, or install the plugin's release for this "
            "one; where no LoRA is served, leave the plugin out: VLLM_PLUGINS names those to load (empty: none)."
        )


@dataclass(frozen=True, slots=True)
class _Mapping:
    """What a wrapper reads of vLLM's LoRAMapping: the adapter id of each token and of each sample, 0 for none."""

    index_mapping: tuple[int, ...]
    prompt_mapping: tuple[int, ...]
    is_prefill: bool


def is_needed(version: str, wrapper: type[Any]) -> bool:
    """Whether vLLM's own `wrapper` has the fault, so that ours is to take its place.

    Raises UnknownVllm where it has, or cannot be asked, in a version that we do not know.
    """
    try:
        if is_right(wrapper):
            return False
    except Exception as error:  # it is another's code, of a version that we may not know
        raise UnknownVllm(version, f"cannot be asked whether it leaves base rows alone ({error!r})") from error
    if not version.startswith(KNOWN):
        raise UnknownVllm(version, "answers rows of the base model with an adapter's weights")
    return True


def is_right(wrapper: type[Any]) -> bool:
    """Both a row without an adapter and one with, in prefill and in decoding, in a linear layer and in the logits.

    Raises what the wrapper raises where it is not to be asked like this.
    """
    return all(_answers(wrapper, is_prefill) == [0.0, _RIGHT] * 2 for is_prefill in (True, False))


def _answers(wrapper: type[Any], is_prefill: bool) -> list[float]:
    """One adapter in the one slot there is, which is thus filled: an index of -1 then finds its weights."""
    asked = wrapper(max_num_batched_tokens=2, max_batches=2, device=torch.device("cpu"))
    asked.update_metadata(_Mapping((0, 1), (0, 1), is_prefill), [1], 2, 2 * _OUTPUTS)
    a, b = torch.ones(1, 1, _RANK, _INPUTS), torch.ones(1, 1, _OUTPUTS, _RANK)
    x, linear, logits = torch.ones(2, _INPUTS), torch.zeros(2, _OUTPUTS), torch.zeros(2, _OUTPUTS)
    asked.add_lora_linear(linear, x, (a,), (b,), 1.0, (_OUTPUTS,))
    asked.add_lora_logits(logits, x, a, b, 1.0)
    return [*linear[:, 0].tolist(), *logits[:, 0].tolist()]
