"""The `wrappers` command: finds text around users' words that the classifier should ignore, in the request log."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pointsman_gateway.classification.user_words import UserWordsFinder
from pointsman_gateway.classification.wrappers import known_wrappers, to_wrapper
from pointsman_gateway.config.load import Config

from pointsman_lab.report import Progress, Report, Section, to_cell
from pointsman_lab.request_log import RequestLog
from pointsman_lab.wrapper_search import MIN_TEXTS, FoundWrapper, find_wrappers, to_entry

MAX_MESSAGES = 5_000
"""The maximum number of different messages that are compared."""


@dataclass(frozen=True, slots=True)
class WrapperFindings:
    """The wrappers (texts that clients write around users' words) that were found in a request log."""

    messages: int
    """The number of different messages that were compared, after known wrappers were removed from them."""
    without_text: int
    """The number of requests whose text was not stored."""
    wrappers: tuple[FoundWrapper, ...]


async def find_in_log(config: Config, log: RequestLog, seconds: float, progress: Progress) -> WrapperFindings:
    """Looks for wrappers in the requests of the last `seconds` in the request log.

    Compares the last user messages of the requests, MAX_MESSAGES different ones at most.
    """
    own = [to_wrapper(one.model_dump()) for one in config.tasks.classifier.wrappers]
    words = UserWordsFinder(own, known_wrappers())
    total, read, without_text = await log.count(seconds), 0, 0
    texts: dict[str, None] = {}
    async for recorded in log.decisions(seconds):
        read += 1
        progress("reading the request log", read, max(read, total))
        last = next((one.content for one in reversed(recorded.request.messages) if one.role == "user"), "")
        if not last:
            without_text += 1
        elif len(texts) < MAX_MESSAGES:
            texts[words.find(last).text] = None
    return WrapperFindings(len(texts), without_text, tuple(find_wrappers(list(texts))))


def wrappers_yaml(found: Sequence[FoundWrapper]) -> str:
    """Returns the wrappers as YAML text for tasks.yaml, under `classifier.wrappers`."""
    entries = {"classifier": {"wrappers": [to_entry(one.wrapper) for one in found]}}
    return yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)


def write_entries(found: Sequence[FoundWrapper], file: Path) -> None:
    file.write_text(wrappers_yaml(found), "utf-8")


def wrappers_report(found: WrapperFindings, age: str, written: str) -> Report:
    """Returns the report on the wrappers (texts that clients write around users' words) that were found in a log.

    `age` says how far back the log was read ("24h"). `written` is the file to which the entries for tasks.yaml were
    written; empty: none.
    """
    facts = {
        "messages": found.messages,
        "without_text": found.without_text,
        "wrappers": [
            {"entry": to_entry(one.wrapper), "messages": one.texts, "read": [to_cell(text) for text in one.read]}
            for one in found.wrappers
        ],
    }
    lines = [f"{found.messages} different messages of the last {age}"]
    if found.without_text:
        lines.append(f"{found.without_text} requests have no stored text (request_log.store_messages)")
    if not found.wrappers:
        lines.append(f"no {MIN_TEXTS} of them have a text in common that a client has written")
        return Report(facts, (Section("Text around the users' words", tuple(lines)),))
    rows = tuple(row for one in found.wrappers for row in _rows(one))
    page = [Section("Text around the users' words", tuple(lines), ("wrapper", "messages", "read"), rows)]
    review = f"written to {written}; review them" if written else "review them"
    entries = tuple(wrappers_yaml(found.wrappers).splitlines())
    return Report(facts, (*page, Section(f"Entries for tasks.yaml: {review}", entries)))


def _rows(found: FoundWrapper) -> list[tuple[str, ...]]:
    first, *others = found.read
    return [(found.wrapper.name, str(found.texts), to_cell(first)), *[("", "", to_cell(other)) for other in others]]
