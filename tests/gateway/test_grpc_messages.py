"""The messages of a streamed answer over gRPC."""

from pointsman_gateway.domain import Chunk
from pointsman_gateway.grpc.response_messages import delta_responses

TOOL_CALL = {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}}

Delta = tuple[int, str, str, bool]
"""A message's choice, its text, its finish reason, and whether it has other fields."""


def deltas(*chunks: Chunk) -> list[Delta]:
    found = [response.delta for response in delta_responses(chunks)]
    return [(delta.index, delta.content, delta.finish_reason, bool(delta.extra_json)) for delta in found]


def test_texts_of_a_choice_that_arrive_together_are_one_message() -> None:
    arrived = Chunk(content="The "), Chunk(content="next"), Chunk(content="", finish_reason="stop")
    assert deltas(*arrived) == [(0, "The next", "stop", False)]
    assert deltas(arrived[0]) == [(0, "The ", "", False)]


def test_texts_of_other_choices_and_what_is_more_than_text_stay_apart() -> None:
    arrived = (
        Chunk(content="a"),
        Chunk(index=1, content="b"),
        Chunk(content="c"),
        Chunk(extra=TOOL_CALL),
        Chunk(extra=TOOL_CALL),
        Chunk(content="d"),
    )
    assert deltas(*arrived) == [
        (0, "a", "", False),
        (1, "b", "", False),
        (0, "c", "", False),
        (0, "", "", True),
        (0, "", "", True),
        (0, "d", "", False),
    ]
