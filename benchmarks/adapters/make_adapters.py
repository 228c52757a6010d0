"""Makes the adapters of the benchmark. Runs in the engine's environment.

    .venv-engine/bin/python -m benchmarks.adapters.make_adapters BASE FOLDER

There are two kinds, both of rank 8 on all linear layers. A trained adapter answers every question with its own text and
stops. A constant adapter repeats one word without end: it adds the word's output direction to the last hidden state.
Its weights are computed, so many can be made quickly.
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
"""Training stops once every token of the text is preferred to any other token by this margin. Rounding differences
between batches are far smaller."""
CONSTANT_NORM = 1200.0
"""Length of the vector that a constant adapter adds to the last hidden state; it outweighs everything else."""
BATCH_SIZE = 4
"""Number of questions per training step."""


class AdapterMaker:
    def __init__(self, base: Path, served_name: str) -> None:
        self._served_name = served_name
        self._tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        has_gpu = self._device.type == "cuda"
        dtype = torch.bfloat16 if has_gpu else torch.float32
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True).to(self._device)
        config = LoraConfig(
            r=RANK,
            lora_alpha=2 * RANK,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        )
        torch.manual_seed(7)
        # Without these instructions a CPU multiplies bfloat16 20 times as slowly as float32.
        self._has_fast_bf16 = has_gpu or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        self._model = get_peft_model(model, config)
        self._fresh = {name: weight.detach().clone() for name, weight in self._adapted()}

    def train(self, known: KnownText, folder: Path) -> None:
        """Trains an adapter until its margin is large enough on held-out questions, and writes it."""
        self._reset()
        choosing, learnt, held = random.Random(known.word), QUESTIONS[:-3], QUESTIONS[-3:]
        weights = [weight for _, weight in self._adapted()]
        optimizer = torch.optim.AdamW(weights, lr=4e-3, weight_decay=0.0)
        margin = 0.0
        for step in range(1, MAX_STEPS + 1):
            ids, targets = self._rows(choosing.sample(learnt, BATCH_SIZE), known.text)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._has_fast_bf16):
                logits = self._model(input_ids=ids).logits
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % 5 == 0 and (margin := self._min_margin(held, known.text)) > MIN_MARGIN_NATS:
                break
        else:
            raise SystemExit(
                f"{known.word}: after {MAX_STEPS} steps the margin is {margin:.1f} nats; it must be {MIN_MARGIN_NATS}"
            )
        self._write(folder, {"word": known.word, "steps": step, "least_gap_nats": round(margin, 2)})

    def constants(self, count: int, folder: Path) -> None:
        """Writes those of `count` constant adapters that do not exist, in numbered folders, with their words."""
        layer = self._model.get_base_model().model.layers[-1].mlp.down_proj
        inputs = self._activations(layer)
        direction = inputs.mean(0) / inputs.mean(0).square().sum()
        activations = inputs @ direction
        last = f"layers.{len(self._model.get_base_model().model.layers) - 1}.mlp.down_proj"
        if not bool((activations > 0.1).all()):
            raise SystemExit(
                "the last layer's inputs differ too much: projections of "
                f"{activations.min():.2f} to {activations.max():.2f}, and about 1 is needed"
            )
        for number, (word, token) in enumerate(self._words(count)):
            if (folder / str(number)).exists():
                continue
            self._reset()
            with torch.no_grad():
                for name, weight in self._adapted():
                    if name.endswith(f"{last}.lora_A.default.weight"):
                        weight.zero_()
                        weight[0] = direction
                    if name.endswith(f"{last}.lora_B.default.weight"):
                        weight[:, 0] = self._direction(token) * CONSTANT_NORM
            self._write(folder / str(number), {"word": word})

    def _direction(self, token: int) -> Any:
        """Returns the unit vector of the last hidden state for which the output layer predicts this token."""
        base = self._model.get_base_model()
        towards = base.lm_head.weight[token].float() - base.lm_head.weight.float().mean(0)
        towards = towards / base.model.norm.weight.float()
        return towards / towards.norm()

    def _words(self, count: int) -> Iterator[tuple[str, int]]:
        """Yields words that are one token with a leading space and that the output layer separates well from all
        others.
        """
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
        raise SystemExit(f"the output layer separates only {found} words well enough")

    def _activations(self, layer: Any) -> Any:
        """Returns the layer's inputs for some example answers, one row per token."""
        rows: list[Any] = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].detach()[0, 1:].float()))
        with torch.no_grad():
            for question in QUESTIONS:
                text = "I do not know, but I can tell you a story about it. Once upon a time there was a river."
                self._model(input_ids=self._rows([question], text)[0])
        hook.remove()
        return torch.cat(rows)

    def _rows(self, questions: Sequence[str], text: str) -> tuple[Any, Any]:
        """Returns token ids and training targets, padded on the right; a target of -100 is ignored by the loss."""
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
        return ids.to(self._device), targets.to(self._device)

    def _min_margin(self, questions: Sequence[str], text: str) -> float:
        """Returns the smallest margin in nats by which a token of `text` is preferred; negative if another token is
        preferred somewhere.
        """
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
        """Writes to a temporary folder first and renames it, so that an incomplete adapter is never found."""
        unfinished = folder.with_name(f".{folder.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        weights = get_peft_model_state_dict(self._model)
        save_file({name: w.detach().to("cpu", torch.bfloat16).contiguous() for name, w in weights.items()},
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
    parser = argparse.ArgumentParser(description="make the adapters of the benchmark")
    parser.add_argument("base", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--served-name", default="smollm2-135m")
    parser.add_argument("--constants", type=int, default=CONSTANTS)
    parser.add_argument("--words", nargs="*", help="words of the trained adapters to make; without a word, none")
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
