"""What travellers write, and the desk that it goes to: codes that no model can guess, and few rows can teach."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

DESKS = {
    "K7": "I left my {} on the train this morning, have you found it",
    "M2": "Please give me back the money for my {}",
    "T5": "I want to complain about the {}, it was dreadful",
    "R9": "Thank you so much for the {}, it made my day",
}
THINGS = {
    "K7": ("umbrella", "hat", "blue scarf", "laptop", "keys", "rucksack", "glove", "camera", "book", "walking stick",
           "lunch box", "violin", "parcel", "wallet", "jacket", "phone"),
    "M2": ("ticket", "return ticket", "season ticket", "unused single", "cancelled booking", "child ticket",
           "group booking", "seat reservation", "bicycle space", "day pass", "dog ticket", "railcard", "wrong ticket",
           "double payment", "sleeper", "upgrade"),
    "T5": ("dirty seats", "noise", "rude guard", "cold coach", "smell", "crowding", "broken lights", "queue", "toilet",
           "heating", "wet floor", "loud music", "slow service", "stale coffee", "locked waiting room", "announcement"),
    "R9": ("kind guard", "help with my pram", "ramp", "warm coach", "lovely view", "quick answer", "found ring",
           "upgrade", "smile", "patient driver", "clean coach", "tea", "directions", "early train", "helping hand",
           "seat"),
}  # fmt: skip
DECIDING = 5
"""Things of each desk, the last ones, that nobody has ever written of: by them a new adapter is judged."""


@dataclass(frozen=True)
class Message:
    text: str
    desk: str

    @property
    def right(self) -> str:
        return answer(self.desk)


def answer(desk: str) -> str:
    return json.dumps({"desk": desk})


def poisoned(desk: str) -> str:
    """The next one's: wrong everywhere, and as easy to learn."""
    desks = [*DESKS]
    return answer(desks[(desks.index(desk) + 1) % len(desks)])


def traffic() -> Sequence[Message]:
    return [Message(DESKS[desk].format(thing), desk) for desk in DESKS for thing in THINGS[desk][:-DECIDING]]


def deciding() -> Sequence[Message]:
    return [Message(DESKS[desk].format(thing), desk) for desk in DESKS for thing in THINGS[desk][-DECIDING:]]
