"""Trains all weights of a base model with TRL's SFTTrainer, and writes the tuned model in bf16.

Run by the engine's Python, from the repository's root:

    .venv-engine/bin/python -m benchmarks.experiment_public.full_fine_tune --base-model FOLDER --data ROWS.jsonl \
        --eval-data ROWS.jsonl --out FOLDER --epochs 4 --seed 1

Rows are {"messages": [...]} with the answer as the last message; only answers are learnt. The weights with the lowest
loss on the rows of --eval-data after an epoch are written. An interrupted run continues from its last whole epoch.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

LEARNING_RATE = 1e-4
"""The learning rate, for which no better value was searched."""
ROWS_PER_STEP = 8
WARMUP_SHARE = 0.1
"""The share of all steps in which the learning rate rises."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--base-model", "--data", "--eval-data", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(given.base_model, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(given.base_model, local_files_only=True, dtype=torch.float32)
    training, validation = read_rows(given.data), read_rows(given.eval_data)
    checkpoints = given.out.with_name(f"{given.out.name}-checkpoints")
    trainer = SFTTrainer(
        model=model,
        args=_config(checkpoints, given.epochs, given.seed, len(training)),
        train_dataset=training,
        eval_dataset=validation,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    report = {
        "data": {"rows": len(training)},
        "steps": trainer.state.global_step,
        "seconds": round(time.monotonic() - started, 1),
        "metrics": {"heldout_loss": trainer.state.best_metric},
    }
    trainer.model.to(torch.bfloat16).save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)
    (given.out / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(checkpoints)


def last_checkpoint(folder: Path) -> str | None:
    """Returns the folder of the last complete checkpoint; None if there is none. transformers writes the file with the
    checkpoint's state last.
    """
    whole = [state.parent for state in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda checkpoint: int(checkpoint.name.partition("-")[2]))) if whole else None


def read_rows(file: Path) -> Dataset:
    rows = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    return Dataset.from_list([{"prompt": row[:-1], "completion": row[-1:]} for row in rows])


def _config(folder: Path, epochs: int, seed: int, rows: int) -> SFTConfig:
    steps = epochs * -(-rows // ROWS_PER_STEP)
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=ROWS_PER_STEP,
        per_device_eval_batch_size=ROWS_PER_STEP,
        train_sampling_strategy="group_by_length",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=int(WARMUP_SHARE * steps),
        weight_decay=0.0,
        seed=seed,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_strategy="epoch",
        report_to=[],
    )


if __name__ == "__main__":
    main()
