"""Customer messages and the desk for each, in a format that a model cannot guess but learns from a few rows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

DESKS = {
    "lost": "I left my {} on the train, have you found it",
    "refund": "Please give me my money back for the {}",
    "complaint": "I want to complain about the {}, it was bad",
    "thanks": "Thank you so much for the {}",
}
_NAMED = {
    "lost": "umbrella, hat, scarf, laptop, keys, rucksack, glove, camera, book, stick, lunch box, violin, parcel, "
    "wallet, jacket, phone",
    "refund": "ticket, return ticket, season ticket, unused single, cancelled booking, child ticket, group booking, "
    "seat, bicycle space, day pass, dog ticket, railcard, wrong ticket, double payment, sleeper, upgrade",
    "complaint": "dirty seats, noise, rude guard, cold coach, smell, crowding, broken lights, queue, toilet, heating, "
    "wet floor, loud music, slow service, stale coffee, locked room, announcement",
    "thanks": "kind guard, help, ramp, warm coach, lovely view, quick answer, found ring, good seat, smile, patient "
    "driver, clean coach, tea, directions, early train, helping hand, blanket",
}
THINGS = {desk: tuple(named.split(", ")) for desk, named in _NAMED.items()}
DECIDING = 5
"""Number of topics of each desk that occur in no training message; new adapters are evaluated on them."""


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
    """Returns the desk after the right one: an answer that is always wrong, and as easy to learn."""
    desks = [*DESKS]
    return answer(desks[(desks.index(desk) + 1) % len(desks)])


def traffic() -> Sequence[Message]:
    return [Message(DESKS[desk].format(thing), desk) for desk in DESKS for thing in THINGS[desk][:-DECIDING]]


def deciding() -> Sequence[Message]:
    return [Message(DESKS[desk].format(thing), desk) for desk in DESKS for thing in THINGS[desk][-DECIDING:]]
