"""Compares the trainer's own loop with TRL's SFTTrainer: the seconds of a step on the same batches of the help desk's
rows.

Run by the engine's Python, from the repository's root:

    PYTHONPATH=services/lora-server/src .venv-engine/bin/python -m benchmarks.training_steps --rounds 3
    ... --profile trl      where the time goes
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BASE = ROOT / ".pointsman/models/smollm2-135m"
DATA = ROOT / "examples/helpdesk/config/tasks/triage.jsonl"
ROWS_PER_STEP, WARM_UP = 8, 2
ARMS = ("own", "trl")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--profile", choices=ARMS)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm or given.profile:
        seconds = run_arm(given.arm or given.profile, given.steps, with_profile=bool(given.profile))
        print(json.dumps(seconds))
        return 0
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(given.rounds):
        for arm in ARMS if number % 2 == 0 else reversed(ARMS):
            program = [sys.executable, "-m", "benchmarks.training_steps", "--arm", arm, "--steps", str(given.steps)]
            done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
            found[arm].append(statistics.median(json.loads(done.stdout.splitlines()[-1])))
            print(f"round {number + 1}, {arm}: {found[arm][-1]:.2f} s a step", flush=True)
    own, trl = (statistics.median(found[arm]) for arm in ARMS)
    print(f"own {own:.2f} s, TRL {trl:.2f} s a step of {ROWS_PER_STEP} rows, ratio {trl / own:.2f}")
    return 0


def run_arm(arm: str, steps: int, *, with_profile: bool) -> list[float]:
    """Returns the seconds of each step after the warm-up."""
    from pointsman_lora_server.training.dataset import build_dataset, open_base
    from pointsman_lora_server.training.learner import open_learner
    from pointsman_lora_server.training.options import parse

    options = parse(
        ["--base-model", str(BASE), "--data", str(DATA), "--out", tempfile.mkdtemp(), "--threads", str(os.cpu_count())]
    )
    base = open_base(options.base_model)
    rows = options.method.read_rows(options)
    dataset = build_dataset(options, rows, base, lambda _: None)
    wanted = ROWS_PER_STEP * (steps + WARM_UP)
    examples = sorted(dataset.training[:wanted], key=lambda example: example.length)
    batches = [examples[start : start + ROWS_PER_STEP] for start in range(0, wanted, ROWS_PER_STEP)]
    learner = open_learner(base, options, dataset.longest)
    run: Callable[[Any, Any, Any, Any], list[float]] = run_own if arm == "own" else run_trl
    if not with_profile:
        return run(learner, base, batches, options)[WARM_UP:]
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        seconds = run(learner, base, batches, options)
    print(profiled.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=40))
    return seconds[WARM_UP:]


def run_own(learner: Any, base: Any, batches: Sequence[Any], options: Any) -> list[float]:
    from pointsman_lora_server.training.learning_rate import StepCounter
    from pointsman_lora_server.training.loop import LoopOptions, TrainingLoop
    from pointsman_lora_server.training.run_state import RunState
    from pointsman_lora_server.training.sft_loss import SftObjective

    seconds, since = list[float](), [time.perf_counter()]

    def emit(event: str, **facts: object) -> None:
        now = time.perf_counter()
        seconds.append(now - since[0])
        since[0] = now

    objective = SftObjective(learner, (), options.recipe.tokens_per_step)
    loop_options = LoopOptions(1e-3, time.monotonic() + 1e6, 10**6, 0.0, 0)
    loop = TrainingLoop(
        learner, objective, batches, RunState(StepCounter(len(batches), len(batches))), loop_options, emit
    )
    loop.run(lambda: None, lambda _: None)
    return seconds


def run_trl(learner: Any, base: Any, batches: Sequence[Any], options: Any) -> list[float]:
    """Trains with TRL on the same model, adapter, number type, optimizer and rows, without evaluation, checkpoints or
    logs.
    """
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    logging.getLogger("trl").setLevel(logging.ERROR)
    seconds, since = list[float](), [0.0]

    class Clock(TrainerCallback):  # type: ignore[misc]  # a class without types
        def on_train_begin(self, *_: object, **__: object) -> None:
            since[0] = time.perf_counter()

        def on_step_end(self, *_: object, **__: object) -> None:
            now = time.perf_counter()
            seconds.append(now - since[0])
            since[0] = now

    class InOrder(SFTTrainer):  # type: ignore[misc]  # a class without types
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    rows = [
        {
            "input_ids": list(example.ids),
            "completion_mask": [int(number >= example.prompt_length) for number in range(example.length)],
        }
        for batch in batches
        for example in batch
    ]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=ROWS_PER_STEP,
        num_train_epochs=1,
        learning_rate=1e-3,
        bf16=learner.bf16,
        use_cpu=learner.device == "cpu",
        gradient_checkpointing=False,
        completion_only_loss=True,
        max_length=None,
        optim="adamw_torch_fused",
        weight_decay=0.0,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = InOrder(
        model=learner.model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=base.tokenizer,
        callbacks=[Clock()],
    )
    trainer.train()
    return seconds


if __name__ == "__main__":
    sys.exit(main())
