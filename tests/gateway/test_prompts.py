"""Each prompt strategy alone, and several combined."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.domain import Decision, Message, Passage, Path, Request, Vector
from pointsman_gateway.extensions import Draft, Example, Found
from pointsman_gateway.prompts.strategies import FewShot, Prompts, apply_all
from pointsman_gateway.prompts.templates import PromptTemplates
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.extensions import few_shot, instruction, retrieval

TEMPLATES = PromptTemplates(
    {
        "persona.txt": "You are Wren.",
        "about.txt": "The question is: {{ query }}",
        "passages.txt": "{% for p in passages %}[{{ p.title }}] {{ p.text }}{% else %}Nothing.{% endfor %}",
    }
)
PASSAGE = Passage("bikes.md", "Bikes", "They ride free.", 0.9)
VECTOR = np.array([1, 0, 0], np.float32)


def draft_of(*messages: Message, vector: Vector | None = VECTOR) -> Draft:
    return Draft(Request("auto", messages or (Message("user", "May my bike ride?"),), deadline=99), vector)


def texts(draft: Draft) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in draft.messages()]


class Finds:
    """Implements `Search` with scripted passages."""

    def __init__(self, *passages: Passage, relevant: bool = True) -> None:
        self._found = Found(passages, relevant)
        self.asked: list[tuple[object, ...]] = []

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        self.asked.append((collection, query, vector, top_k, deadline))
        return self._found


class Lost:
    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        raise Unavailable("the retriever is away", code="retriever_unavailable")


class Embeds:
    """Implements `Embed`, and counts calls."""

    def __init__(self) -> None:
        self.times = 0

    async def embed(self, text: str) -> Vector:
        self.times += 1
        return VECTOR


async def test_an_instruction_becomes_the_system_message() -> None:
    made = await instruction(TEMPLATES, "persona.txt").apply(draft_of())
    assert texts(made) == [("system", "You are Wren."), ("user", "May my bike ride?")]


async def test_the_clients_own_system_message_is_kept_after_ours() -> None:
    draft = draft_of(Message("system", "Answer in French."), Message("user", "Hi"), Message("system", "And short."))
    made = await instruction(TEMPLATES, "persona.txt").apply(draft)
    assert texts(made) == [("system", "You are Wren.\n\nAnswer in French.\n\nAnd short."), ("user", "Hi")]


async def test_without_strategies_the_conversation_is_unchanged() -> None:
    turns = [
        Message("user", "a"),
        Message("assistant", "b", {"tool_calls": []}),
        Message("tool", "c"),
        Message("user", "d"),
    ]
    assert draft_of(*turns).messages() == tuple(turns)


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% for x in y %}", "{{ query.__class__.__mro__ }}", "}}{{", "{#"])
async def test_a_users_text_is_never_a_template(text: str) -> None:
    made = await instruction(TEMPLATES, "about.txt").apply(draft_of(Message("user", text)))
    assert texts(made) == [("system", f"The question is: {text}"), ("user", text)]


async def test_a_passages_text_is_never_a_template() -> None:
    searching = retrieval(TEMPLATES, Finds(Passage("d", "{{ 1 }}", "{{ 2 }}", 1)))
    assert texts(await searching.apply(draft_of()))[0] == ("system", "[{{ 1 }}] {{ 2 }}")


@pytest.mark.parametrize(
    "source", ["{{ query.__class__ }}", "{{ query.__class__.__mro__ }}", "{{ ''.__class__.__subclasses__() }}"]
)
def test_a_prompt_file_cannot_leave_the_sandbox(source: str) -> None:
    with pytest.raises(ConfigError, match=r"prompts/x:1: access to attribute .* is unsafe"):
        instruction(PromptTemplates({"x": source + "{{ query.__class__.mro() }}"}), "x")


def shows_examples(count: int, embed: Embeds | None, prompt: str = "") -> FewShot:
    examples = [Example("far", "1"), Example("near", "2"), Example("unanswered", None), Example("nearer", "3")]
    vectors = np.array([[0, 1, 0], [0.8, 0.6, 0], [1, 0, 0], [0.9, 0.1, 0]], np.float32)
    return few_shot(TEMPLATES, examples, vectors, count, embed, prompt)


async def test_the_nearest_examples_are_shown_the_nearest_last() -> None:
    embeds = Embeds()
    made = await shows_examples(2, embeds).apply(draft_of())
    assert texts(made) == [
        ("user", "near"), ("assistant", "2"), ("user", "nearer"), ("assistant", "3"), ("user", "May my bike ride?"),
    ]  # fmt: skip
    assert embeds.times == 0  # the classifier has the vector already


async def test_a_request_that_was_not_classified_is_embedded_once_for_all_strategies() -> None:
    embeds, found = Embeds(), Finds()
    made = await apply_all([shows_examples(1, embeds), retrieval(TEMPLATES, found)], draft_of(vector=None))
    assert made.examples == (("nearer", "3"),)
    assert embeds.times == 1
    assert found.asked[0][2] is VECTOR


async def test_the_first_examples_can_be_shown_instead() -> None:
    made = await shows_examples(2, None).apply(draft_of(vector=None))
    assert made.examples == (("far", "1"), ("near", "2"))


async def test_passages_are_searched_with_the_vector_and_the_deadline() -> None:
    found = Finds(PASSAGE)
    made = await retrieval(TEMPLATES, found, "handbook", top_k=3).apply(draft_of())
    assert found.asked == [("handbook", "May my bike ride?", VECTOR, 3, 99)]
    assert (made.passages, made.searches) == ((PASSAGE,), 1)
    assert texts(made)[0] == ("system", "[Bikes] They ride free.")


async def test_an_unavailable_retriever_is_an_error_if_passages_are_required() -> None:
    with pytest.raises(Unavailable, match="the retriever is away"):
        await retrieval(TEMPLATES, Lost()).apply(draft_of())


async def test_without_the_retriever_the_model_is_told_that_nothing_was_found_if_passages_are_optional(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = await retrieval(TEMPLATES, Lost(), required=False).apply(draft_of())
    assert texts(made)[0] == ("system", "Nothing.")
    assert "answering without passages: the retriever is away" in caplog.text


async def test_strategies_are_applied_in_order() -> None:
    few = shows_examples(1, Embeds(), "about.txt")
    path = Path("mixed", "tiny", strategies=("persona", "few_shot", "retrieval"))
    decision = Decision("d", "t", 1, path, "r", "s", (), (), vector=VECTOR)
    request = Request("auto", (Message("system", "Mine."), Message("user", "Bike?")))
    prompts = Prompts({"mixed": [instruction(TEMPLATES, "persona.txt"), few, retrieval(TEMPLATES, Finds(PASSAGE))]})
    prompt = await prompts.build(request, decision)
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "You are Wren.\n\nThe question is: Bike?\n\n[Bikes] They ride free.\n\nMine."),
        ("user", "nearer"),
        ("assistant", "3"),
        ("user", "Bike?"),
    ]
    assert (prompt.passages, prompt.searches, set(prompt.seconds)) == ((PASSAGE,), 1, {"prompt", "retrieval"})


def numbered(document: str, start: int = 0, tokens: int = 100, score: float = 0.5) -> Passage:
    return Passage(document, document, f"{document}@{start}", score, start, tokens)


async def shown(finds: Finds, draft: Draft | None = None, **options: Any) -> list[str]:
    made = await retrieval(TEMPLATES, finds, top_k=3, **options).apply(draft or draft_of())
    return [passage.text for passage in made.passages]


async def test_the_same_passages_make_the_same_text_whatever_their_rank() -> None:
    a, b, c = numbered("a.md", 700), numbered("b.md"), numbered("a.md", 90)
    assert await shown(Finds(a, b, c)) == ["a.md@90", "a.md@700", "b.md@0"]
    assert await shown(Finds(c, b, a)) == ["a.md@90", "a.md@700", "b.md@0"]


async def test_the_best_passages_that_fit_the_budget_are_shown() -> None:
    finds = Finds(numbered("z", tokens=150), numbered("long", tokens=900), numbered("a", tokens=150))
    assert await shown(finds, max_tokens=300) == ["a@0", "z@0"]
    assert await shown(finds, max_tokens=299) == ["z@0"]


async def test_passages_below_the_minimum_score_are_not_shown() -> None:
    finds = Finds(numbered("good", score=0.8), numbered("poor", score=0.3))
    assert await shown(finds, min_score=0.5) == ["good@0"]


async def test_if_nothing_is_relevant_no_passage_is_shown() -> None:
    finds = Finds(numbered("beside"), relevant=False)
    assert await shown(finds) == []


async def test_if_nothing_is_relevant_a_path_may_leave_the_request_to_the_next() -> None:
    finds = Finds(numbered("beside"), relevant=False)
    with pytest.raises(Unavailable) as raised:
        await shown(finds, on_empty="next_path")
    assert raised.value.code == "nothing_relevant"
    assert await shown(Finds(numbered("fits")), on_empty="next_path") == ["fits@0"]


async def test_the_last_path_answers_without_passages() -> None:
    finds = Finds(numbered("beside"), relevant=False)
    last = replace(draft_of(), is_last=True)
    assert await shown(finds, last, on_empty="next_path") == []


async def test_an_unavailable_retriever_does_not_count_as_nothing_relevant() -> None:
    searching = retrieval(TEMPLATES, Lost(), required=False, on_empty="next_path")
    assert (await searching.apply(draft_of())).passages == ()
