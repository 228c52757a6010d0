"""Runs guardrails on texts, collects their verdicts, and redacts what they find."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import grpc
from pointsman_servicekit.errors import InvalidArgument, PointsmanError
from prometheus_client import CollectorRegistry, Counter, Histogram

from pointsman_gateway.config.tasks_file import GuardrailConfig
from pointsman_gateway.domain import GuardrailVerdict
from pointsman_gateway.domain.receipt import GUARDRAIL_RULINGS
from pointsman_gateway.extensions import Finding, GuardedText, Guardrail, Hook

log = logging.getLogger(__name__)

Span = tuple[int, int, str]
"""A finding in a text: (start, end, kind), with both positions in characters."""

MAX_KIND_CHARACTERS = 64
"""Maximum length of the kind of a finding, such as "EMAIL_ADDRESS"; findings with a longer kind are invalid."""

FIXED_TYPES = frozenset(
    {"array", "boolean", "integer", "null", "number", "object", "string"}
    | {"function", "json_object", "json_schema", "text"}
    | {"any", "auto", "none", "tool"}
)
"""Values of the field `type` in JSON Schemas, response formats and tools that guardrails do not check, since a request
may have thousands of them.
"""
Visit = Callable[[tuple[Any, ...], str], str]
"""A function of (path, text) that returns the text to put in place of `text`. The path is the tuple of field names and
list positions that lead to the text in the JSON.
"""

_ATOMS = frozenset({int, float, bool, type(None)})
"""Types that hold no text, of which a body may have tens of thousands."""


@dataclass(frozen=True, slots=True)
class NotText:
    """The fields of a JSON object whose strings guardrails do not check, since they are no natural text, such as ids
    and types.

    For a list of objects, it applies to each of them. Objects and lists in these fields are checked.
    """

    names: Set[str] = frozenset()
    """The names of the fields whose strings are not checked."""
    within: Mapping[str, "NotText"] = field(default_factory=dict)
    """For objects within a field of the object: the field's name -> the fields that are not checked in these
    objects.
    """
    media: Set[str] = frozenset()
    """The names of fields with a URL. A URL that begins with "data:" is not checked, since it contains an image or a
    file.
    """
    is_everywhere: bool = False
    """Whether `names` also apply to all objects within the object; `within` is then not used."""

    def of_field(self, name: str) -> "NotText":
        return self if self.is_everywhere else self.within.get(name, ALL_TEXT)


ALL_TEXT = NotText()
NOT_TEXT_IN_ANSWERS = NotText(
    {"id", "type", "role", "name", "url", "data", "file_data", "format", "detail", "tool_call_id", "signature"},
    is_everywhere=True,
)


class GuardrailBlocked(InvalidArgument):
    """Raised if a guardrail blocks the request, the prompt or the answer; the message names the guardrail and its
    findings.
    """

    def __init__(self, verdict: GuardrailVerdict) -> None:
        super().__init__(
            f"the {verdict.hook} is blocked by guardrail '{verdict.guardrail}', which found {', '.join(verdict.found)}",
            code="guardrail_blocked",
        )


class GuardrailUnavailable(PointsmanError):
    """Raised if a guardrail with `fail: closed` fails or times out.

    It is not a subclass of `Unavailable`, because after that error another path would answer the request.
    """

    grpc_status = grpc.StatusCode.UNAVAILABLE
    http_status = 503

    def __init__(self, name: str) -> None:
        super().__init__(f"guardrail '{name}' cannot check now; try again later", code="guardrail_unavailable")


class GuardrailMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.verdicts = Counter(
            "pointsman_guardrail_verdicts",
            "Requests by the ruling of a guardrail: passed, redacted, unchecked, unavailable or blocked.",
            ["guardrail", "hook", "ruling"],
            registry=registry,
        )
        self.seconds = Histogram(
            "pointsman_guardrail_duration_seconds", "Time of one check.", ["guardrail", "hook"], registry=registry
        )


class Verdicts:
    """Collects the verdicts of guardrails on one request.

    Iterate over it for one verdict for each guardrail and hook, with the most severe ruling and all kinds of findings.
    """

    def __init__(self) -> None:
        self._rulings: dict[tuple[str, str], str] = {}
        self._found: dict[tuple[str, str], set[str]] = {}

    def add(self, guardrail: str, hook: Hook, ruling: str, found: Iterable[str] = ()) -> GuardrailVerdict:
        """Adds the result of one check by the guardrail named `guardrail`, and returns it as a verdict.

        `ruling` is one of `GUARDRAIL_RULINGS`; `found` are the kinds of its findings, such as "EMAIL_ADDRESS".
        """
        key, found = (guardrail, hook), tuple(sorted(set(found)))
        self._rulings[key] = max(self._rulings.get(key, ruling), ruling, key=GUARDRAIL_RULINGS.index)
        self._found.setdefault(key, set()).update(found)
        return GuardrailVerdict(guardrail, hook, ruling, found)

    def __iter__(self) -> Iterator[GuardrailVerdict]:
        for key, ruling in self._rulings.items():
            yield GuardrailVerdict(*key, ruling, tuple(sorted(self._found[key])))


current_verdicts: ContextVar[Verdicts] = ContextVar("current_verdicts")
"""The guardrails' verdicts on the current request. It is set to an empty `Verdicts` when the request's meter is
started.
"""


@dataclass(frozen=True, slots=True)
class ActiveGuardrail:
    config: GuardrailConfig
    guardrail: Guardrail


class Guardrails:
    """The configured guardrails, which check texts of requests, prompts and answers."""

    def __init__(self, guardrails: Sequence[ActiveGuardrail], metrics: GuardrailMetrics) -> None:
        self._guardrails = guardrails
        self.metrics = metrics

    def at(self, hook: Hook) -> Sequence[ActiveGuardrail]:
        return [active for active in self._guardrails if hook in active.config.hooks]

    async def check(
        self, hook: Hook, texts: Sequence[GuardedText], verdicts: Verdicts, checked: Sequence[int] = ()
    ) -> list[list[Span]]:
        """Has all guardrails of the hook check the texts concurrently, and adds their verdicts to `verdicts`.

        Returns for each text the spans to redact: (start, end, kind), in characters. The first `checked[i]` characters
        of text i were checked before; findings that end within them are ignored.

        Raises GuardrailBlocked if a guardrail with `action: block` finds something, or any guardrail has a finding
        without an end, which cannot be redacted; otherwise GuardrailUnavailable if a guardrail with `fail: closed`
        fails or times out.
        """
        asked = self.at(hook)
        replies = await asyncio.gather(*(self._ask(active, hook, texts) for active in asked))
        spans: list[list[Span]] = [[] for _ in texts]
        refused: PointsmanError | None = None
        for active, reply in zip(asked, replies, strict=True):
            name = active.config.name
            if reply is None:
                is_open = active.config.fail == "open"
                verdicts.add(name, hook, "unchecked" if is_open else "unavailable")
                refused = refused or (None if is_open else GuardrailUnavailable(name))
                continue
            new = [f for f in reply if f.end is None or not checked or f.end > checked[f.text]]
            kinds = [finding.kind for finding in new]
            if not new:
                verdicts.add(name, hook, "passed")
            elif active.config.action == "block" or any(finding.end is None for finding in new):
                refused = GuardrailBlocked(verdicts.add(name, hook, "blocked", kinds))
            else:
                verdicts.add(name, hook, "redacted", kinds)
                for finding in new:
                    spans[finding.text].append((finding.start, finding.end or 0, finding.kind))
        if refused is not None:
            raise refused
        return spans

    async def _ask(self, active: ActiveGuardrail, hook: Hook, texts: Sequence[GuardedText]) -> Sequence[Finding] | None:
        """Returns one guardrail's findings; None if the guardrail fails, times out, or returns invalid findings."""
        began, config = perf_counter(), active.config
        try:
            async with asyncio.timeout(config.timeout_seconds):
                found = await active.guardrail.find(hook, texts)
            _check_findings(found, texts)
            return found
        except TimeoutError:
            log.warning("guardrail %s timed out after %g s", config.name, config.timeout_seconds)
        except Exception as error:  # whatever a user's guardrail raises
            log.warning("guardrail %s failed: %s", config.name, error)
        finally:
            self.metrics.seconds.labels(config.name, hook).observe(perf_counter() - began)
        return None


def _check_findings(found: Sequence[Finding], texts: Sequence[GuardedText]) -> None:
    for finding in found:
        if not 0 <= finding.text < len(texts):
            raise ValueError(f"a finding is in text {finding.text}, but there are only {len(texts)} texts")
        length = len(texts[finding.text].text)
        if finding.end is not None and not 0 <= finding.start < finding.end <= length:
            raise ValueError(f"a finding is at {finding.start} to {finding.end} in a text of {length} characters")
        if not 0 < len(finding.kind) <= MAX_KIND_CHARACTERS or not finding.kind.isprintable():
            raise ValueError(f"the kind of a finding must have 1 to {MAX_KIND_CHARACTERS} printable characters")


def redact(text: str, spans: Iterable[Span], start: int = 0) -> str:
    """Returns the text with each finding replaced by its kind in brackets, such as "[EMAIL_ADDRESS]".

    `spans` are (start, end, kind) of the findings. `text` may be a part of a longer text, in which it begins at
    position `start`; positions of spans are those in the longer text. If a span begins before `text` or within another
    span, the rest of it is removed without a replacement.
    """
    pieces, position, end = [], start, start + len(text)
    for first, last, kind in sorted(spans):
        if last <= position or first >= end:
            continue
        if first >= position:
            pieces += [text[position - start : first - start], f"[{kind}]"]
        position = min(last, end)
    return "".join([*pieces, text[position - start :]])


def map_texts(value: Any, visit: Visit, at: tuple[Any, ...] = (), not_text: NotText = NOT_TEXT_IN_ANSWERS) -> Any:
    """Returns a copy of decoded JSON in which `visit(path, text)` has replaced each text that is not empty.

    A path is the tuple of field names and list positions that lead to the text, after `at`, the path of `value` itself.
    An object in a list has its field `index` for a position if that is an integer. Tuples become lists. Not replaced
    are field names, strings in the fields that `not_text` names, and a `type` with one of `FIXED_TYPES`.
    """
    if isinstance(value, str):
        return visit(at, value) if value else value
    if isinstance(value, Mapping):
        return {
            name: v
            if type(v) in _ATOMS or (isinstance(v, str) and _is_no_text(name, v, not_text))
            else map_texts(v, visit, (*at, name), not_text.of_field(name))
            for name, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_item(n, v, visit, at, not_text) for n, v in enumerate(value)]
    return value


def _is_no_text(name: str, value: str, not_text: NotText) -> bool:
    if name in not_text.names:
        return True
    return (name == "type" and value in FIXED_TYPES) or (name in not_text.media and value.startswith("data:"))


def _map_item(position: int, item: Any, visit: Visit, at: tuple[Any, ...], not_text: NotText) -> Any:
    kind = type(item)
    if kind in _ATOMS:
        return item
    if kind is str:
        return visit((*at, position), item) if item else item
    return map_texts(item, visit, (*at, _number(position, item)), not_text)


def _number(position: int, value: Any) -> int:
    """Returns the number by which a list item is named in a path: its field `index` if that is an integer, else
    `position`.

    Pieces of one tool call may be at different positions in different chunks, but have the same `index`.
    """
    index = value.get("index") if isinstance(value, Mapping) else None
    return index if type(index) is int else position
