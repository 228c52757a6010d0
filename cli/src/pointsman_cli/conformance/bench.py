"""The state of a swap test, and the steps that its checks share: ask, load adapters, judge answers, clean up."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pointsman_cli.conformance.adapter_shelf import AdapterShelf
from pointsman_cli.conformance.answers import BASE, KnownAnswers, TimedAnswer
from pointsman_cli.conformance.controls import AdapterControl
from pointsman_cli.conformance.errors import ApiError, ControlRefused
from pointsman_cli.conformance.findings import Findings, Property
from pointsman_cli.conformance.openai_api import OpenAIApi

SHORT_TOKENS, LONG_TOKENS = 8, 40
"""Maximum tokens of a usual answer in the test, and of an answer during which an adapter is replaced."""

_BODY = (
    "In the first years the town had one harbour, two mills and a market that was held on the third day of each month. "
    "People came over the hills with wool, honey and tin, and went home with salt, rope and news. When the river rose, "
    "the lower mill stood in the water, and the millers moved their wheel to a boat. A bridge was begun in the year of "
    "the great frost; it took nine summers, and the last arch was closed on a Sunday, which some thought unlucky. "
)
PROMPTS = tuple(
    f"{opening}. {_BODY}{_BODY}So the chronicle says that"
    for opening in ("A chronicle of the town", "The second book", "Notes of a traveller")
)
"""The test's prompts. Their beginnings differ, and each is longer than a block of an engine's prefix cache (128 tokens
on a CPU)."""
LONG_PROMPT = PROMPTS[0]

ALIVE_SECONDS, RETRY_SECONDS = 20.0, 1.0
"""Seconds without an answer after which `Bench.is_alive` counts an engine as stopped; seconds between its attempts."""
CLEAN_UP_SECONDS = 60.0
"""Maximum seconds for the removal of one adapter at the end of the test."""
MOVING_PART = "moving"
"""A part of the names of the adapters whose weights the test replaces; no other adapter's name contains it."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The names of the four test adapters that a swap test uses, whose answers can be told apart.

    `new` replaces `old` during the test; `first` and `second` are loaded for comparison. All are in the AdapterShelf's
    folder.
    """

    first: str
    second: str
    old: str
    """The adapter version whose weights the test replaces by those of `new`."""
    new: str

    @property
    def all(self) -> tuple[str, ...]:
        return (self.first, self.second, self.old, self.new)


@dataclass(slots=True)
class Bench:
    """The state of one swap test (replacing adapters at one engine): clients, reference answers and findings."""

    api: OpenAIApi
    control: AdapterControl
    shelf: AdapterShelf
    base_model: str
    """The base model's name at the engine."""
    prefix: str
    """The prefix of the names of all adapters that this test run uses."""
    say: Callable[[str], None]
    """A function that shows a line of progress to the user."""
    findings: Findings = field(default_factory=Findings)
    known: KnownAnswers = field(default_factory=KnownAnswers)
    loaded: set[str] = field(default_factory=set)

    def name(self, suffix: str) -> str:
        return f"{self.prefix}-{suffix}"

    async def load(self, name: str, made: str) -> None:
        """Loads the test adapter `made` (a name in the AdapterShelf) at the engine under the name `name`.

        If the adapter is still loaded at the end of the test, `clean_up` unloads it. Raises ControlRefused if the
        engine does not load it.
        """
        self.loaded.add(name)
        await self.control.load(name, made)

    async def unload(self, name: str) -> None:
        await self.control.unload(name)
        self.loaded.discard(name)

    @asynccontextmanager
    async def holding(self, adapters: Mapping[str, str]) -> AsyncIterator[list[str]]:
        """Loads adapters, yields their names at the engine, and unloads them when the `async with` block ends.

        `adapters` maps suffixes, which make the names at the engine unique, to names of adapters in the AdapterShelf.
        Raises ControlRefused if an adapter cannot be loaded. An adapter that cannot be unloaded is noted in the
        findings, and unloaded by `clean_up`.
        """
        names = [self.name(suffix) for suffix in adapters]
        try:
            for name, made in zip(names, adapters.values(), strict=True):
                await self.load(name, made)
            yield names
        finally:
            for name in [name for name in names if name in self.loaded]:
                try:
                    await self.unload(name)
                except ControlRefused as error:
                    self.findings.note(f"an adapter of the test could not be unloaded: {error}")

    async def ask_base(self, prompt: str, max_tokens: int = SHORT_TOKENS) -> TimedAnswer:
        return await self.api.complete(self.base_model, prompt, max_tokens)

    async def ask(self, name: str, prompt: str, max_tokens: int = SHORT_TOKENS) -> TimedAnswer:
        """Requests a completion of `prompt` from the adapter `name`; the answer's `error` says whether it failed.

        Raises LimitReached if the test may send no more requests.
        """
        return await self.api.complete(self.control.model(name), prompt, max_tokens)

    def judge(self, answer: TimedAnswer, version: str, what: str, about: Property = Property.WRONG_VERSION) -> bool:
        """Records whether an answer is the reference answer of the adapter version `version`; returns True if it is.

        The result is recorded for the property `about`, with `what` as the description of the request. A failed request
        is recorded for the property FAILED_REQUESTS instead, and False is returned.
        """
        if not self.succeeded(answer, what):
            return False
        compared = self.known.compare(answer, version)
        if compared.is_same:
            self.findings.passed(about)
            return True
        self.findings.failed(about, f"{what}: {self.describe(answer, version)}", compared.wrong)
        return False

    def succeeded(self, answer: TimedAnswer, what: str) -> bool:
        """Records as a finding whether a request succeeded; returns True if it did. `what` describes the request.

        A failure because the engine is overloaded is recorded as a weak finding, not as a failure.
        """
        if not answer.error:
            self.findings.passed(Property.FAILED_REQUESTS)
        elif answer.is_overload:
            self.findings.weak(Property.FAILED_REQUESTS, f"{what}: {answer.error}")
        else:
            self.findings.failed(Property.FAILED_REQUESTS, f"{what}: {answer.error}")
        return not answer.error

    def describe(self, answer: TimedAnswer, version: str) -> str:
        """Returns a text for a finding on an answer that should be the reference answer of `version`, but is not.

        The text names the version whose reference answer it is. If it is that of no version, the text says from which
        token on it differs. The text quotes 60 characters of the answer.
        """
        other = self.known.version_of(answer, (BASE, *self.shelf.versions()))
        whose = "of no version alone" if other is None else f"that of {other}"
        where = self.known.compare(answer, version).agreeing
        start = f"from token {where + 1} on " if where and other is None else ""
        return f"instead of {version}'s answer, {start}{whose}: {answer.text[:60]!r}"

    async def is_alive(self) -> bool:
        """Returns whether the engine completes a request to the base model; retries for ALIVE_SECONDS (20 s).

        An answer without tokens counts as complete. If the engine completes none, a note is added to the findings.
        """
        deadline = time.monotonic() + ALIVE_SECONDS
        while not (answer := await self.ask_base(PROMPTS[0], 1)).is_complete:
            if time.monotonic() > deadline:
                self.findings.note(f"the base model does not answer: {answer.error}")
                return False
            await asyncio.sleep(RETRY_SECONDS)
        return True

    async def check_base(self, what: str) -> bool:
        """Sends all prompts to the base model in turn; returns whether all its answers equal the answers that were
        recorded at the start.

        The result of each prompt is recorded as a finding, with `what` as the description of the request.
        """
        is_same = True
        for prompt in PROMPTS:
            answer = await self.ask_base(prompt)
            if answer.error and not answer.is_overload:
                self.findings.failed(Property.BASE_CHANGED, f"{what}: {answer.error}")
                is_same = False
            else:
                is_same &= self.judge(answer, BASE, what, Property.BASE_CHANGED)
        return is_same

    async def clean_up(self) -> None:
        """Unloads all adapters that this run has loaded, and deletes their copies in the AdapterShelf.

        If an adapter may still be loaded afterwards, a note is added to the findings, and its copy is not deleted: the
        engine may read it again, and some engines crash if it is missing.
        """
        kept = []
        for name in sorted(self.loaded):
            try:
                async with asyncio.timeout(CLEAN_UP_SECONDS):
                    await self.control.unload(name)
            except (ControlRefused, TimeoutError) as error:
                if await self._may_serve(name):
                    kept.append(name)
                    why = str(error) or f"no answer within {CLEAN_UP_SECONDS:g} s"
                    self.findings.note(f"{self.control.model(name)} may still be loaded; unload it: {why}")
            self.loaded.discard(name)
        self.shelf.withdraw(self.prefix, kept)
        if kept:
            self.findings.note(f"then delete {self.shelf.folder / 'served'}")
        if self.control.remains:
            self.findings.note(self.control.remains)

    async def _may_serve(self, name: str) -> bool:
        """Returns whether the URL lists the adapter, or does not say what it serves."""
        try:
            return self.control.model(name) in [model["id"] for model in await self.api.models()]
        except ApiError:
            return True
