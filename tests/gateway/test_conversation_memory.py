"""Which requests belong to one conversation, what the gateway remembers about it, and when it reads Redis."""

from typing import Any

import pytest
from pointsman_gateway.conversations.identity import conversation_ids, is_in_tool_loop, session_of
from pointsman_gateway.conversations.lengths import ConversationLengths
from pointsman_gateway.conversations.memory import ConversationMemory
from pointsman_gateway.conversations.stage import (
    PROTECTED_SECONDS,
    UNAVAILABLE_NOTE,
    ConversationBook,
    Conversations,
    ConversationTerms,
)
from pointsman_gateway.domain import Decision, Message, Path, Request
from pointsman_gateway.domain.conversation import ConversationStep, KeptPath, Step

from tests.gateway.doubles.clocks import Clock
from tests.gateway.doubles.conversations import SharedStore, labels, request

TASKS = {
    "t": ConversationTerms(is_constant=False),
    "fixed": ConversationTerms(),
    "lora": ConversationTerms(has_adapters=True),
    "off": ConversationTerms("off", is_constant=False),
}


class OneGateway:
    """The conversations of one gateway, which answers each request on a given path."""

    def __init__(self, store: SharedStore, clock: Clock, ttl: float = 3600.0) -> None:
        self._stage = Conversations(TASKS, ConversationBook(ConversationMemory(ttl, clock=clock), store))

    async def step(self, asked: Request, task: str = "t") -> ConversationStep | None:
        return await self._stage.recall(asked, labels(task))

    async def answer(self, asked: Request, path: str = "a", task: str = "t") -> ConversationStep | None:
        step = await self.step(asked, task)
        if step is not None:
            self._stage.remember(asked, step, decision(path, task))
        return step


def decision(path: str, task: str) -> Decision:
    return Decision(f"dec_{path}", task, 1.0, Path(path, "tiny"), "policy:split", "static", (), ())


@pytest.fixture
def store() -> SharedStore:
    return SharedStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(store: SharedStore, clock: Clock) -> OneGateway:
    return OneGateway(store, clock)


def first_id(asked: Request) -> str:
    return next(conversation_ids(asked, session_of(asked)))


# -- identity


def test_all_requests_of_a_conversation_have_one_id() -> None:
    first, later = request("user"), request("user", "assistant", "tool", "assistant", "user")
    assert first_id(first) == first_id(later)


@pytest.mark.parametrize(
    "other", [{"system": "You judge."}, {"first": "Wash up."}, {"user": "bob"}, {"api_key": "key-2"}]
)
def test_another_beginning_user_or_key_is_another_conversation(other: dict[str, Any]) -> None:
    assert first_id(request("user")) != first_id(request("user", **other))


def test_the_clients_own_session_stands_for_the_whole_conversation() -> None:
    one = request("user", metadata={"session_id": "s"})
    trimmed = request("user", "assistant", "user", first="Much later.", metadata={"session_id": "s"})
    assert first_id(one) == first_id(trimmed) != first_id(request("user", metadata={"session_id": "other"}))
    assert first_id(one) != first_id(request("user", metadata={"session_id": "s"}, api_key="key-2"))


@pytest.mark.parametrize("named", [{"user": "ann"}, {"extra": {"prompt_cache_key": "k"}}])
def test_with_a_user_or_a_cache_key_the_system_prompt_may_change(named: dict[str, Any]) -> None:
    at_noon, later = request("user", system="It is noon.", **named), request("user", system="It is late.", **named)
    assert first_id(at_noon) == first_id(later)
    assert first_id(at_noon) != first_id(request("user", first="Wash up.", **named))


def test_texts_without_valid_unicode_have_an_id() -> None:
    assert first_id(request("user", first="\ud800" * 9000))


def test_conversations_that_begin_with_different_images_differ() -> None:
    def showing(url: str) -> Request:
        parts = [{"type": "image_url", "image_url": {"url": url}}]
        return Request("auto", (Message("user", "", {"content": parts}),))

    assert first_id(showing("data:image/png;base64,AAAA")) != first_id(showing("data:image/png;base64,AAAB"))


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("user", False), ("user assistant tool", True), ("user assistant function", True),
        ("user assistant tool user", True), ("user assistant user", False), ("user assistant", True),
        ("user assistant tool assistant user", False),
    ],
)  # fmt: skip
def test_a_tool_loop_lasts_until_the_assistant_has_answered(roles: str, expected: bool) -> None:
    assert is_in_tool_loop(request(*roles.split()).messages) is expected


# -- what matters


@pytest.mark.parametrize(
    ("task", "asked", "matters"),
    [
        ("fixed", request("user", tools=False), False),
        ("fixed", request("user", "assistant", "user", tools=False), False),
        ("fixed", request("user"), True),
        ("fixed", request("user", "assistant", "tool", tools=False), True),
        ("lora", request("user", tools=False), True),
        ("t", request("user", tools=False), True),
        ("off", request("user", "assistant", "tool"), False),
        ("unknown", request("user", tools=False), False),
    ],
)
async def test_nothing_is_remembered_that_cannot_matter(
    gateway: OneGateway, task: str, asked: Request, matters: bool
) -> None:
    assert (await gateway.step(asked, task) is not None) is matters


async def test_requests_that_name_a_path_and_completions_are_no_conversations(gateway: OneGateway) -> None:
    named, completion = request("user"), request("user", operation="completion")
    named.model = "path:a"  # type: ignore[misc]  # nobody else has it
    assert await gateway.step(named) is None
    assert await gateway.step(completion) is None


async def test_a_pinned_version_alone_is_not_shared_before_the_second_request(
    gateway: OneGateway, store: SharedStore
) -> None:
    await gateway.answer(request("user", tools=False), task="lora")
    assert store.kept == {}
    await gateway.answer(request("user", "assistant", "user", tools=False), task="lora")
    assert len(store.kept) == 1


# -- steps


async def test_a_conversation_is_recognized_at_each_step(gateway: OneGateway) -> None:
    steps = [
        await gateway.answer(request(*roles.split()))
        for roles in ("user", "user assistant tool", "user assistant tool assistant user")
    ]
    assert [step and step.kind for step in steps] == [Step.FIRST, Step.TOOL_LOOP, Step.TURN]
    assert steps[2]
    assert (steps[2].kept.path, steps[2].answers) == ("a", 2)


async def test_conversations_that_begin_alike_do_not_disturb_a_tool_loop(gateway: OneGateway, clock: Clock) -> None:
    await gateway.answer(request("user"), "a")
    alike = await gateway.step(request("user"))
    assert alike
    assert (alike.kind, alike.kept.path) == (Step.LIKE_ANOTHER, "a")
    clock.passes(PROTECTED_SECONDS + 1)
    later = await gateway.step(request("user"))
    assert later
    assert later.kind is Step.FIRST


async def test_questions_that_are_equal_are_decided_one_by_one(gateway: OneGateway) -> None:
    for _ in range(2):
        step = await gateway.answer(request("user", tools=False))
        assert step
        assert (step.kind, step.key) == (Step.FIRST, "")


async def test_examples_before_every_request_do_not_make_them_one_conversation(gateway: OneGateway) -> None:
    def asked(*turns: str) -> Request:
        messages = [Message("user", "example"), Message("assistant", "its answer")]
        for turn in turns:
            messages += [Message("user", turn), Message("assistant", "an answer")]
        return Request("auto", tuple(messages[:-1]))

    await gateway.answer(asked("one"), "a")
    other = await gateway.answer(asked("two"), "b")
    assert other
    assert other.kind is Step.FIRST
    for turn, path in (("one", "a"), ("two", "b")):
        following = await gateway.step(asked(turn, "and then?"))
        assert following
        assert (following.kind, following.kept.path) == (Step.TURN, path)


async def test_a_conversation_is_forgotten_after_its_time_to_live(
    gateway: OneGateway, store: SharedStore, clock: Clock
) -> None:
    await gateway.answer(request("user"))
    store.kept.clear()  # as Redis does
    clock.passes(3601)
    step = await gateway.step(request("user", "assistant", "user"))
    assert step
    assert step.kind is Step.FIRST


def test_the_longest_unused_conversation_is_dropped() -> None:
    memory = ConversationMemory(3600, capacity=2)
    kept = KeptPath("a", "t", memory.now())
    for id in ("one", "two"):
        memory.put(id, kept)
    memory.put("one", kept)
    memory.put("three", kept)
    assert [bool(memory.find((id,))[1].path) for id in ("one", "two", "three")] == [True, False, True]


# -- Redis


async def test_redis_is_read_once_for_a_conversation_that_another_gateway_began(
    gateway: OneGateway, store: SharedStore, clock: Clock
) -> None:
    await OneGateway(store, clock).answer(request("user"), "b")
    roles = ["user"]
    for _ in range(3):
        roles += ["assistant", "tool"]
        step = await gateway.answer(request(*roles), "b")
        assert step
        assert (step.kind, step.kept.path) == (Step.TOOL_LOOP, "b")
    assert store.reads == 1


async def test_a_first_request_reads_nothing(gateway: OneGateway, store: SharedStore) -> None:
    await gateway.answer(request("user"))
    await gateway.answer(request("user", "assistant", "tool"))
    assert store.reads == 0


async def test_redis_is_read_again_after_another_gateway_has_answered(
    gateway: OneGateway, store: SharedStore, clock: Clock
) -> None:
    other = OneGateway(store, clock)
    await gateway.answer(request("user"), "a")
    clock.passes(1)
    await other.answer(request("user", "assistant", "user"), "b")
    step = await gateway.step(request("user", "assistant", "user", "assistant", "tool"))
    assert step
    assert step.kept.path == "b"


async def test_an_unavailable_redis_is_not_asked_again_and_the_decision_says_so(
    gateway: OneGateway, store: SharedStore
) -> None:
    store.fails = True
    for number in range(3):
        step = await gateway.step(request("user", "assistant", "tool", first=f"number {number}"))
        assert step
        assert (step.kind, step.notes) == (Step.FIRST, (UNAVAILABLE_NOTE,))
    assert store.reads == 1


async def test_a_conversation_that_is_known_here_goes_on_without_redis(gateway: OneGateway, store: SharedStore) -> None:
    await gateway.answer(request("user"), "a")
    store.fails = True
    step = await gateway.step(request("user", "assistant", "user", "assistant", "tool"))
    assert step
    assert (step.kind, step.kept.path, step.notes) == (Step.TOOL_LOOP, "a", ())


# -- lengths


def test_remaining_requests_follow_the_keys_earlier_conversations() -> None:
    lengths = ConversationLengths()
    prior = lengths.requests_left("new", 1)
    for _ in range(200):
        for number in range(1, 11):
            lengths.add("agents", number)
        lengths.add("questions", 1)
    assert lengths.requests_left("agents", 1) == pytest.approx(10, abs=0.3)
    assert lengths.requests_left("agents", 8) == pytest.approx(3, abs=0.3)
    assert lengths.requests_left("questions", 1) == pytest.approx(1, abs=0.3)
    assert lengths.requests_left("new", 1) == prior == 4


def test_old_conversations_are_forgotten() -> None:
    lengths = ConversationLengths()
    for _ in range(5000):
        lengths.add("key", 1)
        lengths.add("key", 2)
    for _ in range(20_000):
        lengths.add("key", 1)
    assert lengths.requests_left("key", 1) < 1.2
