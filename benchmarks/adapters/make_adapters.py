"""Makes the adapters of the measurements, in the engine's environment.

    .venv-engine/bin/python -m benchmarks.adapters.make_adapters BASE FOLDER

Two sorts, both of rank 8 on all linear layers. The trained ones answer every question with their own text and stop. The
constant ones say one word for ever: their output layer's input is pushed towards that word's own direction. They cost
no training, so there are many of them.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.adapters.known_texts import KNOWN, QUESTIONS, KnownText

RANK = 8
CONSTANTS = 64
MAX_STEPS = 120
MIN_MARGIN_NATS = 4.0
"""Nats between the first and the second choice at every place of the answer, with which training ends: no rounding of a
batch turns that round."""
CONSTANT_NORM = 1200.0
"""The length of what a constant one adds to the last hidden state: all else is drowned out."""
BATCH_SIZE = 4
"""Questions in a training step."""


class AdapterMaker:
    def __init__(self, base: Path, served_name: str) -> None:
        self._served_name = served_name
        self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        config = LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(7)
        self._model = get_peft_model(model, config)
        self._fresh = {name: weight.detach().clone() for name, weight in self._adapted()}

    def train(self, known: KnownText, folder: Path) -> None:
        """Until it is sure of its text on questions that it does not learn from."""
        self._reset()
        choosing, learnt, held = random.Random(known.word), QUESTIONS[:-3], QUESTIONS[-3:]
        weights = [weight for _, weight in self._adapted()]
        optimizer = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
        gap = 0.0
        for step in range(1, MAX_STEPS + 1):
            ids, targets = self._rows(choosing.sample(learnt, BATCH_SIZE), known.text)
            with torch.autocast("cpu", torch.bfloat16):
                logits = self._model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 5 == 0 and (gap := self._min_margin(held, known.text)) > MIN_MARGIN_NATS:
                break
        else:
            raise SystemExit(
                f"{known.word}: after {MAX_STEPS} steps its least gap is {gap:.1f} nats, not {MIN_MARGIN_NATS}"
            )
        self._write(folder, {"word": known.word, "steps": step, "least_gap_nats": round(gap, 2)})

    def constants(self, count: int, folder: Path) -> None:
        """So many, each in a folder of its number, with the word that it says."""
        layer = self._model.get_base_model().model.layers[-1].mlp.down_proj
        inputs = self._activations(layer)
        direction = inputs.mean(0) / inputs.mean(0).square().sum()
        activations = inputs @ direction
        if not bool((activations > 0.1).all()):
            raise SystemExit(
                f"the last layer cannot be read so: {activations.min():.2f} to {activations.max():.2f} where 1 is meant"
            )
        for number, (word, token) in enumerate(self._words(count)):
            self._reset()
            with torch.no_grad():
                for name, weight in self._adapted():
                    if name.endswith("layers.29.mlp.down_proj.lora_A.default.weight"):
                        weight.zero_()
                        weight[0] = direction
                    if name.endswith("layers.29.mlp.down_proj.lora_B.default.weight"):
                        weight[:, 0] = self._direction(token) * CONSTANT_NORM
            self._write(folder / str(number), {"word": word})

    def _direction(self, token: int) -> Any:
        """What the output layer takes for this token and nothing else; of length 1."""
        base = self._model.get_base_model()
        towards = base.lm_head.weight[token].float() - base.lm_head.weight.float().mean(0)
        towards = towards / base.model.norm.weight.float()
        return towards / towards.norm()

    def _words(self, count: int) -> Iterator[tuple[str, int]]:
        """Of one token each, with the space before it; those that the output layer tells apart best."""
        weight = self._model.get_base_model().lm_head.weight.float()
        found = 0
        for token in range(1000, weight.shape[0]):
            word = self._tokenizer.decode([token])
            if not (word.startswith(" ") and word[1:].isalpha() and word.islower() and 5 <= len(word) <= 9):
                continue
            direction = self._direction(token) * self._model.get_base_model().model.norm.weight.float()
            first, second = torch.topk(weight @ direction, 2).values
            best = int(torch.argmax(weight @ direction))
            if best == token and first - second > 0.25 * first:
                yield word.strip(), token
                found += 1
                if found == count:
                    return
        raise SystemExit(f"the output layer tells only {found} words apart well")

    def _activations(self, layer: Any) -> Any:
        """What comes into the layer, a row for each place of some answers."""
        rows: list[Any] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].detach()[0, 1:]))
        with torch.no_grad():
            for question in QUESTIONS:
                text = "I do not know, but I can tell you a story about it. Once upon a time there was a river."
                self._model(input_ids=self._rows([question], text)[0])
        hook.remove()
        return torch.cat(rows)

    def _rows(self, questions: Sequence[str], text: str) -> tuple[Any, Any]:
        """Token ids, and the same with -100 where nothing is to be learnt; padded on the right."""
        answer = [*self._tokenizer(text)["input_ids"], self._tokenizer.eos_token_id]
        prompts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
            )
            for question in questions
        ]
        longest = max(map(len, prompts)) + len(answer)
        ids = torch.full((len(prompts), longest), self._tokenizer.eos_token_id)
        targets = torch.full((len(prompts), longest), -100)
        for row, prompt in enumerate(prompts):
            end = len(prompt) + len(answer)
            ids[row, :end] = torch.tensor([*prompt, *answer])
            targets[row, len(prompt) : end] = torch.tensor(answer)
        return ids, targets

    def _min_margin(self, questions: Sequence[str], text: str) -> float:
        """Nats; negative where some place has another first choice than the text."""
        least = float("inf")
        with torch.no_grad():
            for question in questions:
                ids, targets = self._rows([question], text)
                logits, targets_of_row = self._model(input_ids=ids).logits[0, :-1].float(), targets[0, 1:]
                logits, targets_of_row = logits[targets_of_row >= 0], targets_of_row[targets_of_row >= 0]
                own = logits.gather(1, targets_of_row[:, None])[:, 0]
                others = logits.scatter(1, targets_of_row[:, None], float("-inf")).max(1).values
                least = min(least, float((own - others).min()))
        return least

    def _adapted(self) -> Iterator[tuple[str, Any]]:
        return ((name, weight) for name, weight in self._model.named_parameters() if weight.requires_grad)

    def _reset(self) -> None:
        with torch.no_grad():
            for name, weight in self._adapted():
                weight.copy_(self._fresh[name])

    def _write(self, folder: Path, facts: dict[str, object]) -> None:
        """What is unfinished stands beside it."""
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        weights = get_peft_model_state_dict(self._model)
        save_file({name: w.detach().to(torch.bfloat16).contiguous() for name, w in weights.items()},
                  unfinished / "adapter_model.safetensors", metadata={"format": "pt"})  # fmt: skip
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self._served_name,
            "r": RANK,
            "lora_alpha": 2 * RANK,
            "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
            "bias": "none",
        }
        (unfinished / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        folder.with_suffix(".json").write_text(json.dumps(facts) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description="makes the adapters of the measurements")
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--served-name", default="smollm2-135m")
    parser.add_argument("--constants", type=int, default=CONSTANTS)
    parser.add_argument("--words", nargs="*", help="of the trained ones, these alone; none of them without a word")
    options = parser.parse_args()
    maker = AdapterMaker(options.base, options.served_name)
    targets_of_row = [known for known in KNOWN if options.words is None or known.word in options.words]
    for known in targets_of_row:
        folder = options.folder / known.name / known.word
        if not folder.exists():
            started = time.monotonic()
            maker.train(known, folder)
            print(f"{known.name}/{known.word}: {time.monotonic() - started:.0f} s", flush=True)
    if options.constants and not (options.folder / "constant" / str(options.constants - 1)).exists():
        maker.constants(options.constants, options.folder / "constant")


if __name__ == "__main__":
    main()
