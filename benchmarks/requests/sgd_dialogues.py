"""Reads other dialogues of Schema-Guided Dialogue (SGD) than the reported ones, to develop the model of conversations.

The reported turns are from SGD's part `dev`. These are from its parts `train` and `test`, in a clone of
github.com/google-research-datasets/dstc8-schema-guided-dialogue.
"""

import json
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

FITTING, VALIDATION = 0, 1
"""The two halves of the selected dialogues: one for the parameters, one for the settings of their fit."""
ONE_IN = {"train": 50, "test": 12}
"""By part, of how many dialogues one is selected for each half. The part `test` has more tasks without examples."""
NO_TASK = "NONE"
"""The intent of turns that only end a dialogue; they are left out, as in the reported turns."""

Row = Mapping[str, Any]
"""A row in the format of the reported turns: `turns` up to a turn of the user, its task `label`, or None if the task
has no examples, and whether the turn `opens` a task that is new in the dialogue."""


def development_rows(clone: Path, half: int, tasks: Collection[str], examples: Collection[str]) -> Iterator[Row]:
    """Yields the turns of the dialogues in one half, without repeated texts. `tasks` are those with examples; dialogues
    that have one of the texts `examples` are left out.
    """
    texts: set[str] = set()
    for dialogue in _selected(clone, half):
        if any(turn["utterance"] in examples for turn in dialogue["turns"]):
            continue
        for row in _rows_of(dialogue, tasks):
            text = row["turns"][-1]["content"]
            if text not in texts:
                texts.add(text)
                yield row


def _selected(clone: Path, half: int) -> Iterator[Mapping[str, Any]]:
    for part, one_in in ONE_IN.items():
        for file in sorted((clone / part).glob("dialogues_*.json")):
            for dialogue in json.loads(file.read_text("utf-8")):
                if zlib.crc32(f"{part}/{dialogue['dialogue_id']}".encode()) % one_in == half:
                    yield dialogue


def _rows_of(dialogue: Mapping[str, Any], tasks: Collection[str]) -> Iterator[Row]:
    turns: list[Mapping[str, str]] = []
    seen: set[str] = set()
    task = ""
    for turn in dialogue["turns"]:
        is_user = turn["speaker"] == "USER"
        turns.append({"role": "user" if is_user else "assistant", "content": turn["utterance"]})
        intents = [frame["state"]["active_intent"] for frame in turn["frames"]] if is_user else []
        intents = [intent for intent in intents if intent != NO_TASK]
        if not intents:
            continue
        # A turn that leaves a task for another one has both.
        new = [intent for intent in intents if intent not in seen]
        task = new[0] if new else task if task in intents else intents[0]
        seen.update(intents)
        yield {"turns": tuple(turns), "label": task if task in tasks else None, "opens": bool(new)}
