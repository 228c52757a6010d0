"""Compares mixed batches of a real vLLM with PEFT: `python mixed_batches.py BASE FOLDER NAME...`.

FOLDER has a LoRA adapter in each subfolder NAME. Prints one JSON object with the differences between the logits of
both.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

BASE = "base"
TOKENS = 6
"""Number of tokens per row: the first comes from prefill, the others from decoding."""
TOP = 100
"""Number of highest logits that are compared at each position."""


TEXTS = (
    "The railway between the two cities was opened in the spring of the year in which the bridge over the river had "
    "been finished, and on the first day three trains went over it, each of them full of people who",
    "The capital of France is",
    "Dear team, I was charged twice for the same order last week, the second time after I had cancelled it, and nobody "
    "has answered my two letters about it; please tell me when I can expect the money back on my card, and",
    "Water boils at a hundred degrees, and",
    "My parcel has not arrived. What can I",
    "The three colours of a traffic light are",
)
"""The prompts. Two have more tokens than a plan accepts for scattered rows."""


@dataclass(frozen=True)
class Row:
    adapter: str
    prompt: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    row: Row
    tokens: tuple[int, ...]
    logits: tuple[Mapping[int, float], ...]
    """The logits at each decoded token, by token id."""


class Vllm:
    def __init__(self, base: Path, folders: Mapping[str, Path]) -> None:
        self._adapters = {
            name: LoRARequest(name, number, str(folders[name])) for number, name in enumerate(folders, start=1)
        }
        self._engine = LLM(
            str(base),
            dtype="bfloat16",
            max_model_len=512,
            enable_lora=True,
            max_loras=len(folders),
            max_lora_rank=8,
            enable_prefix_caching=False,
            logprobs_mode="raw_logits",
            max_logprobs=TOP,
            seed=0,
        )

    def answer(self, rows: Sequence[Row]) -> list[Answer]:
        """Generates answers to all rows in one batch."""
        sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=TOP, detokenize=False)
        prompts = [{"prompt_token_ids": list(row.prompt)} for row in rows]
        adapters = [self._adapters.get(row.adapter) for row in rows]
        answers = []
        done = self._engine.generate(prompts, sampling, lora_request=adapters, use_tqdm=False)
        for row, request in zip(rows, done, strict=True):
            out = request.outputs[0]
            logits = tuple({token: found.logprob for token, found in place.items()} for place in out.logprobs)
            answers.append(Answer(row, tuple(out.token_ids), logits))
        return answers


class Peft:
    def __init__(self, base: Path, folders: Mapping[str, Path], dtype: torch.dtype) -> None:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        first, *others = folders
        self._model = PeftModel.from_pretrained(model, folders[first], first, autocast_adapter_dtype=False)
        for name in others:
            self._model.load_adapter(folders[name], name, autocast_adapter_dtype=False)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not there where types are checked
    def logits(self, adapter: str, answer: Answer) -> torch.Tensor:
        """Returns [tokens, vocabulary] for the tokens of `answer`."""
        ids = torch.tensor([[*answer.row.prompt, *answer.tokens]])
        if adapter == BASE:
            with self._model.disable_adapter():
                logits = self._model(input_ids=ids).logits
        else:
            self._model.set_adapter(adapter)
            logits = self._model(input_ids=ids).logits
        return logits[0, len(answer.row.prompt) - 1 : -1].float()


def seen(answer: Answer) -> torch.Tensor:
    """Returns [tokens, TOP]: the ids of the highest logits at each position."""
    return torch.tensor([list(place)[:TOP] for place in answer.logits])


def given(answer: Answer) -> torch.Tensor:
    """Returns the logits of the ids that `seen` returns, [tokens, TOP]."""
    return torch.tensor([list(place.values())[:TOP] for place in answer.logits])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Returns the root mean square of the differences between two tensors."""
    return float((one - other).square().mean().sqrt())


def parted(together: Answer, alone: Answer) -> float:
    """Returns by how much the answer that was generated alone prefers its own token where both answers first differ; 0
    if they do not.
    """
    for place, (one, other) in enumerate(zip(alone.tokens, together.tokens, strict=True)):
        if one != other:
            return alone.logits[place][one] - alone.logits[place].get(other, 0.0)
    return 0.0


def rows(adapters: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Returns short and long prompts. Those for the base model are between those for adapters, and one adapter has two
    that are not adjacent.
    """
    asked = [BASE, *adapters, BASE, adapters[0]]
    return [Row(adapter, tuple(tokenizer.encode(text))) for adapter, text in zip(asked, TEXTS, strict=False)]


def main() -> None:
    base, folder, *names = sys.argv[1:]
    folders = {name: Path(folder) / name for name in names}
    vllm = Vllm(Path(base), folders)
    exact, rounded = (Peft(Path(base), folders, dtype) for dtype in (torch.float32, torch.bfloat16))
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    found: dict[str, list[dict[str, object]]] = {}
    for stage, adapters in (("an unfilled slot", names[:-1]), ("all slots filled", names)):
        found[stage] = []
        for answer in vllm.answer(rows(adapters, tokenizer)):
            own, ids = answer.row.adapter, seen(answer)
            true = {name: exact.logits(name, answer).gather(1, ids) for name in (BASE, *names)}
            row = {
                "adapter": own,
                "prompt_tokens": len(answer.row.prompt),
                "parted": parted(answer, vllm.answer([answer.row])[0]),
                "apart": {name: apart(given(answer), logits) for name, logits in true.items()},
                "rounding": apart(rounded.logits(own, answer).gather(1, ids), true[own]),
            }
            found[stage].append(row)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
