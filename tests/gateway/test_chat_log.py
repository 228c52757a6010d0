"""The messages of a chat log are found in the formats of many programs."""

import pytest
from pointsman_gateway.classification.chat_log import label_messages

HELLO, WORDS = "Hello, what can I do?", "I left my umbrella on the ferry"
LABELLED = f"Agent: {HELLO}\nUser: {WORDS}"
LOGS = [
    f"[10:12] Agent: {HELLO}\n[10:13] Martha: {WORDS}",
    f"2026-12-01T10:12:04Z Agent> {HELLO}\n2026-12-01T10:13:11Z Martha> {WORDS}",
    f"10:12:04 Agent | {HELLO}\n10:13:11 Martha | {WORDS}",
    f"[10:12] <@Agent> {HELLO}\n[10:13] <Martha> {WORDS}",
    f"1/12/26, 10:12 - Agent: {HELLO}\n1/12/26, 10:13 - Martha: {WORDS}",
    f"2026-12-01 10:12 [help] Agent: {HELLO}\n2026-12-01 10:13 [help] Martha: {WORDS}",
    f"Agent (10:12 AM): {HELLO}\nMartha (10:13 AM): {WORDS}",
    f"Agent (Sat 10:12): {HELLO}\nMartha (Sat 10:13): {WORDS}",
    f"Agent: {HELLO} (10:12:04)\nMartha: {WORDS} (10:13:11)",
    f"Agent  10:12 AM\n{HELLO}\nMartha  10:13 AM\n{WORDS}",
    f"Agent\n10:12\n{HELLO}\nMartha\n10:13\n{WORDS}",
    f"**Agent** - Today at 10:12\n{HELLO}\n**Martha** - Today at 10:13\n{WORDS}",
]


@pytest.mark.parametrize("log", LOGS)
def test_each_message_becomes_a_line_with_its_speaker_and_the_last_one_is_the_users(log: str) -> None:
    assert label_messages(log) == LABELLED


def test_the_speakers_keep_their_names_if_one_is_known_as_the_user() -> None:
    assert (
        label_messages(f"[10:12] Customer: {WORDS}\n[10:13] Martha: {HELLO}") == f"Customer: {WORDS}\nMartha: {HELLO}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        WORDS,
        f"[10:13] Martha: {WORDS}",
        "Wake me at 6:30\nand at 7:15 on Friday",
        "Set alarms for:\n7:00\n8:00 AM",
        "10:12:04 --> joined\n10:13:11 <-- left",
    ],
)
def test_a_text_with_fewer_than_two_messages_is_unchanged(text: str) -> None:
    assert label_messages(text) == text
