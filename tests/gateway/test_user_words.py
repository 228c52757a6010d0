"""The classifier reads a user's own words, not what clients write around them."""

# ruff: noqa: E501  # clients write long lines

import json
from time import thread_time

import pytest
from pointsman_gateway.classification.chat_log import label_messages
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import CONTRADICTION_NOTE, Classification
from pointsman_gateway.classification.user_words import UserWordsFinder
from pointsman_gateway.classification.wrappers import known_wrappers, to_wrapper
from pointsman_gateway.domain import Message, Request

from tests.gateway.doubles.classifier import ScriptedClassifier, labels
from tests.gateway.test_recorded_requests import WRAPPERS

WORDS = "I left my umbrella on the ferry"
OTHER = "Please move my booking to Friday"
DOCUMENT = "Bicycles travel free of charge. The office opens at nine.\n\nDogs are kept on a lead."
REMINDER = (
    "<system-reminder>\nAs you answer, you can use the following context:\n# project\nUse tabs.\n</system-reminder>"
)
ENVIRONMENT = (
    "<environment_details>\n# VSCode Visible Files\nsrc/app.ts\n\n# Current Mode\nACT MODE\n</environment_details>"
)

OF_CLIENTS: dict[str, list[str]] = {
    # Claude Code writes reminders before and after the user's text, in parts of the same message.
    "claude-code": [f"{REMINDER}\n{WORDS}", f"{WORDS}\n{REMINDER}", f"<command-name>/x</command-name>\n{WORDS}"],
    # Codex sends these before the user's text, and the first two also as messages of their own.
    "codex": [
        f"<environment_context>\n  <cwd>/a</cwd>\n</environment_context>\n{WORDS}",
        f"# AGENTS.md instructions for /a\n\n<INSTRUCTIONS>\nUse tabs.\n</INSTRUCTIONS>\n\n{WORDS}",
    ],
    "cline": [
        f"<task>\n{WORDS}\n</task>\n\n{ENVIRONMENT}",
        f"[ask_followup_question] Result:\n<answer>\n{WORDS}\n</answer>\n{ENVIRONMENT}",
        f"<user_message>\n{WORDS}\n</user_message>\n\n{ENVIRONMENT}",
    ],
    "chat-template": [
        f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{WORDS}<|im_end|>\n<|im_start|>assistant\n",
        f"<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n{WORDS} [/INST]",
        f"<|system|>\nBe kind.</s>\n<|user|>\n{WORDS}\n<|assistant|>\n",
        f"<|start|>user<|message|>{WORDS}<|end|><|start|>assistant",
    ],
    "human-assistant": [f"\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: {WORDS}\n\nAssistant:"],
    "vicuna": [f"A chat between a curious user and an assistant. USER: Hi ASSISTANT: Hello.</s>USER: {WORDS} ASSISTANT:"],
    "alpaca": [f"Below is an instruction that describes a task.\n\n### Instruction:\n{WORDS}\n\n### Response:\n"],
    "bulletin-board": [f'[quote="Support" post_id=7]What happened?[/quote]\n{WORDS}'],
    "aider": [
        f"{WORDS}\n\n# *SEARCH/REPLACE block* Rules:\n\nEvery *SEARCH/REPLACE block* must use this format:\n1. The path",
        f"{WORDS}\n\nTo suggest changes to a file you MUST return the entire content of the updated file.\nUse this:",
    ],
    "openhands": [f"{WORDS}\n\n<RUNTIME_INFORMATION>\nToday's date is 2026-11-30.\n</RUNTIME_INFORMATION>"],
    "open-webui": [
        "### Task:\nRespond to the user query using the provided context, incorporating inline citations in the format "
        "[id] **only when the <source> tag includes an explicit id attribute**.\n\n### Guidelines:\n- Be clear.\n\n"
        f'<context>\n<source id="1">{DOCUMENT}</source>\n</context>\n\n{WORDS}',
    ],
    "open-webui-files": [f'<attached_files>\n<file type="file" name="a.pdf"/>\n</attached_files>\n\n{WORDS}'],
    "user-query": [f"<context>\n{DOCUMENT}\n</context>\n<user_query>\n{WORDS}\n</user_query>"],
    "librechat": [
        f"The user has attached the following file to the conversation:\n\n<files>{DOCUMENT}</files>\n{WORDS}",
    ],
    "dify": [
        "Use the following context as your learned knowledge, inside <context></context> XML tags.\n\n<context>\n"
        f"{DOCUMENT}\n</context>\n\nWhen answer to user:\n- If you don't know, just say that you don't know.\n"
        f"And answer according to the language of the user's question.\n\n{WORDS}",
    ],
    "llamaindex": [
        f"Context information is below.\n---------------------\n{DOCUMENT}\n---------------------\nGiven the context "
        f"information and not prior knowledge, answer the query.\nQuery: {WORDS}\nAnswer: ",
    ],
    "llamaindex-refine": [
        f"The original query is as follows: {WORDS}\nWe have provided an existing answer: None.\n------------\n{DOCUMENT}",
    ],
    "llamaindex-rewrite": [
        f"You rewrite or repeat existing answers.\nNew Context: {DOCUMENT}\nQuery: {WORDS}\nOriginal Answer: None.\nNew Answer: ",
    ],
    "llamaindex-condense": [
        "Given a conversation (between Human and Assistant) and a follow up message from Human, rewrite the message.\n"
        f"\n<Chat History>\nHuman: Hi\n\n<Follow Up Message>\n{WORDS}\n\n<Standalone question>\n",
    ],
    "langchain-condense": [
        "Given the following conversation and a follow up question, rephrase the follow up question to be a standalone "
        f"question.\n\nChat History:\nHuman: Hi\nFollow Up Input: {WORDS}\nStandalone question:",
    ],
    "langchain-documents": [
        "Use the following pieces of context to answer the question at the end. If you don't know the answer, say so.\n\n"
        f"{DOCUMENT}\n\nQuestion: {WORDS}\nHelpful Answer:",
        "You are an assistant for question-answering tasks. Use the following pieces of retrieved context to answer the "
        f"question.\nQuestion: {WORDS} \nContext: {DOCUMENT} \nAnswer:",
    ],
    "langchain-context": [f"Answer the question based only on the following context:\n{DOCUMENT}\n\nQuestion: {WORDS}\n"],
    "dspy": [
        f"[[ ## context ## ]]\n{DOCUMENT}\n\n[[ ## question ## ]]\n{WORDS}\n\nRespond with the corresponding output fields.",
        f"[[ ## message ## ]]\n{WORDS}\n\n[[ ## tone ## ]]\nkind\n\nRespond with the corresponding output fields.",
    ],
    "crewai": [
        f"\nCurrent Task: {WORDS}\n\nThis is the expected criteria for your final answer: A sentence.\nyou MUST return it.",
    ],
    "smolagents": [
        f"New task:\n{WORDS}",
        f"Based on the above, please provide an answer to the following user task:\n{WORDS}",
    ],
    "autogen": [
        "Read the following conversation. Then select the next role from ['a', 'b'] to play. Only return the role.\n\n"
        f"user: {WORDS}\n\n\n\nRead the above conversation.",
    ],
    "opencode": [f"Generate a title for this conversation:\n\n{WORDS}"],
    "react": [f"Answer as best you can.\n\nQuestion: the input\nThought: think\n\nBegin!\n\nQuestion: {WORDS}\nThought:"],
}  # fmt: skip
"""By name in the catalog, messages as the client writes them. The templates are facts from the clients' public sources
and from recorded requests; the texts in them are ours."""

BY_PARTS = {
    "alpaca-input": [
        "Below is an instruction that describes a task, paired with an input that provides further context.\n\n"
        f"### Instruction:\nAnswer the message politely.\n\n### Input:\n{WORDS}\n\n### Response:\n",
        "Below is an instruction that describes a task, paired with an input that provides further context.\n\n"
        f"### Instruction:\n{WORDS}\n\n### Input:\nFerry 118\n\n### Response:\n",
    ],
}
"""The same, if the catalog's entry leaves several parts that may be the user's."""

WITH_STRUCTURE = sorted(OF_CLIENTS.keys() - {"opencode"})
"""Clients whose messages can be read without their entry."""

MAILS = [
    f"Hi team,\n\n{WORDS}\n\nBest regards,\nMartha Jones\nSenior Analyst | Acme\nTel. +44 113 496 0000",
    f"{WORDS}\n\nOn Mon, 23 Nov 2026 at 10:12, Support <s@acme.example> wrote:\n> Dear Martha,\n> thank you.\n> Support",
    f"Dear Sir or Madam,\n{WORDS}\n\nKind regards\nPeter\n\nFrom: Support <s@acme.example>\nSent: Monday\nSubject: RE: x\n\nHi",
    f"{WORDS}\n\nSent from my iPhone",
    f"On Mon, 23 Nov 2026, Support wrote:\n> What happened?\n\n{WORDS}\n-- \nMartha",
    f"Sehr geehrte Damen und Herren,\n\n{WORDS}\n\nMit freundlichen Grüßen\nMartha Jonas",
    f"Beste medewerker,\n\n{WORDS}\n\nAlvast bedankt voor uw reactie.\n\nMet vriendelijke groet,\nMartha",
    f"De: Marta <m@a.example>\nEnviada em: segunda-feira 11:03\nPara: Apoio\nAssunto: x\n\nPrezados,\n\n{WORDS}\n\nAtenciosamente,\nMarta",
    f"Dzień dobry,\n{WORDS}\nPozdrawiam\nMarta\n\n-----Wiadomość oryginalna-----\nOd: Biuro\nTemat: x\n\nWitamy.",
    f"{WORDS}\n\n2026. nov. 23., Kedd 10:12 <a@b.example>:\n> Kedves Ügyfelünk,\n> Segély",
    f"> Goeiedag\n> {OTHER}\n\n{WORDS}".replace(
        "> Goeiedag", "Op ma 23 nov 2026 schreef Hulp <a@b.example>:\n> Goeiedag", 1
    ),
    f"您好，\n{WORDS}\n\n谢谢\n玛莎",
    f"Αγαπητή ομάδα,\n\n{WORDS}\n\nΜε εκτίμηση,\nΜάρθα",
    f"Вітаю!\n\n{WORDS}\n\nЗ повагою,\nМарта",
    f"Hello,\n\n{WORDS}\n\nMartha J.",
    f"Summarize the mail below.\n\nFrom: Martha <m@a.example>\nTo: Support\nSubject: x\n\nHi,\n{WORDS}\n\nMartha",
    f"MIME-Version: 1.0\nFrom: Martha <m@a.example>\nSubject: x\nContent-Type: text/plain\n\nHi,\n{WORDS}\nRegards\nMartha",
    f"Bonjour,\n{WORDS}\n\nCordialement\nMarthe\n\nLe lun. 23 nov. 2026 à 10:12, Aide <a@b.example> a écrit :\n> Bonjour",
]
LABELLED = [
    f"Question: {WORDS}\nLet's think step by step. Answer:",
    f"Q: What is red?\nA: A colour.\n\nQ: {WORDS}\nA:",
    f"User: {WORDS}",
    f"{WORDS} Let's think step by step.",
    f"Frage: {WORDS}\nAntwort:",
    f"问题：{WORDS}\n回答：",
]
HTML = [
    f"<html><head><style>p {{color: red}}</style></head><body><p>{WORDS}</p></body></html>",
    f"<div>{WORDS}<br></div>",
    f"<!DOCTYPE html><p class=MsoNormal>{WORDS}<o:p></o:p></p><p><o:p>&nbsp;</o:p></p>",
    f"&lt;div&gt;{WORDS}&lt;/div&gt;",
    f'<div class="mail">{WORDS}</div><div class="gmail_quote">On Monday Support wrote:<blockquote>Hi</blockquote></div>',
]
QUOTED = [
    f'"{WORDS}"',
    f"\N{LEFT DOUBLE QUOTATION MARK}{WORDS}\N{RIGHT DOUBLE QUOTATION MARK}",
    f'{REMINDER}\n"{WORDS}"',
]
STRUCTURED = [
    f"<instructions>You are careful. Follow the policy.</instructions>\n<policy>Be polite.</policy>\n<message>{WORDS}</message>",
    f"## Role\nYou are an agent of a bank.\n\n## Rules\n- Be short.\n\n## Conversation\n{WORDS}\n\n## Output format\nJSON",
    json.dumps({"channel": "web", "customer_id": "C-1", "text": WORDS, "instructions": "Reply in a friendly tone"}),
    f"Please act as our assistant and reply to the customer. Keep it friendly.\n\n---\n{WORDS}\n---\n\nDo not use links.",
    f"[10:12] Agent: Hello, what can I do?\n[10:13] Martha: {WORDS}\n[10:14] Agent: One moment.",
    f"Case Number: 12345\nOrigin: Web\nSubject: (none)\nDescription: {WORDS}\nStatus: New",
    f'level=info svc="gateway" msg="opened"\nlevel=info svc="chat" event="input" text="{WORDS}"',
    f'{{"level":"info","msg":"opened"}}\n{{"level":"info","payload":{{"kind":"utterance","text":"{WORDS}"}}}}',
    f'time,speaker,text\n10:12,agent,"{OTHER}, please"\n10:13,caller,"{WORDS}"',
    f"| Field | Value |\n|---|---|\n| Name | Martha |\n| Message | {WORDS} |\n| Consent | yes |",
    f"Ticketnummer: 12\nKunde: Martha\nAnfrage: {WORDS}\nPriorität: hoch\n\nBeantworte sie in höchstens fünf Sätzen.",
    f"你是客服助手。请根据以下信息回答。\n\n已知信息：\n{OTHER}\n\n用户问题：{WORDS}\n\n请用英文回答。",
    f"Instructions\n------------\n{OTHER}\n\nRequest\n-------\n{WORDS}\n\nNotes\n-----\n{OTHER}",
    f"[Question]\n{WORDS}\n\n[The Start of Assistant's Answer]\n{OTHER}\n[The End of Assistant's Answer]",
    f"Chat History:\nHuman: {OTHER}\nAI: Sure.\nFollow up: \nUser message: {WORDS}",
    f'A visitor typed "{WORDS}" into the search. You must answer in two sentences.',
    f'<div class="part admin"><p>{OTHER}</p></div><div class="part user"><time>10:12</time><p>{WORDS}</p></div>',
    f"<table><tr><td>Name</td><td>Martha</td></tr><tr><td>Message</td><td>{WORDS}</td></tr></table>",
    json.dumps([{"role": "assistant", "content": OTHER}, {"role": "user", "content": WORDS}]),
    json.dumps({"event": "message", "payload": json.dumps({"type": "text", "text": WORDS})}),
    json.dumps({"log": f"10:12:04 INFO inbound message: {WORDS}", "stream": "stdout"}),
    str({"role": "user", "content": WORDS, "id": 7}),
    f"send({{ id: 7, author: 'guest', text: '{WORDS}', lang: 'en' }})",
    f"INFO session=7 lang=en text='{WORDS}' length=31\nDEBUG session=7 choosing",
    f"<ctx:page>/basket</ctx:page>\n<usr:message>{WORDS}</usr:message>\n<sys:rules>{OTHER}</sys:rules>",
    f"[CONTEXT]{OTHER}[/CONTEXT]\n[QUESTION]{WORDS}[/QUESTION]",
    f"{{{{context}}}}{OTHER}{{{{/context}}}}\n{{{{question}}}}{WORDS}{{{{/question}}}}",
    f"=== RULES ===\n{OTHER}\n=== CUSTOMER MESSAGE ===\n{WORDS}\n=== END ===",
    f"== Context ==\n{OTHER}\n\n== Question ==\n{WORDS}",
    f"1. Rules\n{OTHER}\n\n2. Message of the visitor\n{WORDS}\n\n3. Output\nOne line.",
    f"**Context**\n{OTHER}\n\n**Visitor's message**\n{WORDS}",
    f"\N{PUSHPIN} Context: {OTHER}\n\N{BLACK QUESTION MARK ORNAMENT} Question: {WORDS}",
    f" id | channel | body | done\n----+---------+------+-----\n 7 | web | {WORDS} | f\n(1 row)",
    f"┌───┬─────┬──────┐\n│ id │ channel │ message │\n├───┼─────┼──────┤\n│ 7 │ web │ {WORDS} │\n└───┴─────┴──────┘",
    f"10:12 Agent | What can I do?\n10:13 Martha | {WORDS}\n10:14 Agent | {OTHER}",
    f"Messages, now\nMartha\n{WORDS}\nReply    Mark as read",
    f"Martha wrote on Aug 14 at 9.12 in the morning, see below:\n{WORDS}\n\nYou must reply.",
]  # fmt: skip


OF_PEOPLE = [
    f"{WORDS}\nfrom: Boston\nto: Denver",
    f"{WORDS}!\n\nFerry: 118\nColour: blue",
    f"{WORDS}:\n  ferry = 118\n  colour = blue",
    f"{WORDS}\n\nEvent: a trip\nTime: 14:00\nPlace: the pier",
    "I left this message: umbrella on the ferry",
    "I left these on the ferry:\n1. my umbrella\n2. my hat",
]
"""Texts with a structure that people write, too."""


def glance(text: str) -> tuple[str, float] | None:
    """Classifies a text by the words that it shares with WORDS and OTHER, in place of the classifier's static stage."""
    words = set(text.lower().split())
    of_tasks = {"lost": set(WORDS.lower().split()), "booking": set(OTHER.lower().split())}
    scores = {name: 3 * len(words & of_task) / len(of_task) - 1 for name, of_task in of_tasks.items()}
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


FINDER = UserWordsFinder((), known_wrappers(), glance)


def read(text: str) -> str:
    return FINDER.find(text).text


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in OF_CLIENTS.items() for text in texts])
def test_what_a_known_client_writes_around_a_text_is_not_read(name: str, text: str) -> None:
    found = UserWordsFinder((), known_wrappers()).find(text)
    assert found.text == WORDS
    assert name in found.wrappers
    assert str(found).startswith(f"read {len(WORDS)} of {len(text)} characters: ")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BY_PARTS.items() for text in texts])
def test_of_what_a_known_client_leaves_the_users_part_is_read(name: str, text: str) -> None:
    found = FINDER.find(text)
    assert (found.text, found.rivals) == (WORDS, ())
    assert name in found.wrappers


def test_each_known_client_has_an_example() -> None:
    recorded = {name for names in WRAPPERS.values() for name in names}
    assert {wrapper.name for wrapper in known_wrappers()} == OF_CLIENTS.keys() | BY_PARTS.keys() | recorded


@pytest.mark.parametrize("text", [*MAILS, *LABELLED, *HTML, *QUOTED])
def test_mails_labels_and_html_are_read_without_their_dress(text: str) -> None:
    assert read(text) == WORDS


MARKED = [
    f"<request><channel>web</channel><body><![CDATA[{WORDS}]]></body></request>",
    f'<message id="7" lang="en" from="visitor" text="{WORDS}"/>',
    f"Summarize what the visitor says: `{WORDS}`",
    f"Summarize what the visitor says: '{WORDS}'",
    f"Maria\n10:14 AM\ndid you get the flyers?\n\nDeb\n10:16 AM\nyes thank you\n\nMaria\n10:21 AM\n{WORDS}",
    f"[21:14] mika: anyone here\n[21:15] rowan: yes\n[21:16] mika: {WORDS}\n[21:16] helper-bot is typing...",
]


@pytest.mark.parametrize("text", MARKED)
def test_words_within_marks_or_at_the_end_of_a_log_are_found(text: str) -> None:
    assert UserWordsFinder((), (), glance).find(text).text == WORDS


def test_a_log_that_is_not_the_end_of_the_text_shows_no_asking_person() -> None:
    log = "[10:31] Sabine: is it fixed?\n[10:33] Chidi: on Wednesday\n[10:36] Per: thanks for this"
    assert label_messages(log).endswith("User: thanks for this")
    assert "User:" not in label_messages(
        f"{log}\n\nOutput format:\n- one line for each person, with the open questions"
    )


@pytest.mark.parametrize("text", [*STRUCTURED, *(text for name in WITH_STRUCTURE for text in OF_CLIENTS[name])])
def test_the_users_part_of_an_unknown_structure_is_found(text: str) -> None:
    found = UserWordsFinder((), (), glance).find(text)
    assert WORDS in found.text
    assert len(found.text) <= len(WORDS) + 12
    assert found.rivals == ()


@pytest.mark.parametrize(
    "text",
    [
        WORDS,
        "",
        " ",
        "Hi",
        "yes please",
        f"{WORDS}.\n\nIt is blue. I was on the 17.40.",
        "Note: the shop is closed",
        '"Aida" or "Tosca"',
        '"',
        '""',
        "<b",
    ],
)
def test_a_text_without_dress_is_read_as_it_is(text: str) -> None:
    found = FINDER.find(text)
    assert (found.text, found.wrappers, found.rivals) == (text, (), ())


@pytest.mark.parametrize("text", OF_PEOPLE)
def test_of_a_structure_that_people_write_no_detail_is_read_alone(text: str) -> None:
    found = FINDER.find(text)
    assert text.startswith(found.text)
    assert len(found.text) >= len(WORDS)
    assert found.rivals == ()


def test_a_configurations_wrappers_come_first() -> None:
    own = to_wrapper({"name": "kiosk", "signs": ["KIOSK 7"], "user": [["says> ", "<end"]], "drop": [["(", ")"]]})
    finder = UserWordsFinder([own], known_wrappers())
    found = finder.find(f"KIOSK 7 (front)\nsays> hello<end\nsays> {WORDS}<end")
    assert (found.text, found.wrappers) == (WORDS, ("kiosk",))
    assert finder.find(f"KIOSK 8\nsays> {WORDS}").text == f"KIOSK 8\nsays> {WORDS}"


def test_the_words_may_be_at_either_end_of_megabytes() -> None:
    filler = "lorem ipsum " * 200_000
    assert read(f"{WORDS}\n<system-reminder>{filler}</system-reminder>") == WORDS
    assert read(f"<environment_context>{filler}</environment_context>\n{WORDS}") == WORDS


HOSTILE = [
    "<a>",
    "</a>",
    "<a",
    "a: b\n",
    "- ",
    "\n\n",
    " \t",
    "12:30 ",
    'a="b" ',
    "#",
    "---\n",
    "<task>",
    "[INST]",
    "{",
    "1:23 a",
    "a (1:23): b\n",
    "a='b'c",
    "a.a",
    "[a]",
    "[/a]",
    "a: b\n\n",
    "a | b\n",
    "From: a\nTo: b\nMessage-ID: c\n\n",
    "A: b\nQ: c\n",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_the_time_is_bounded_whatever_the_text(unit: str) -> None:
    """Ten times the text does not take ten times the time, since only both ends are searched."""
    times = []
    for size in (20_000, 2_000_000):
        text = unit * (size // len(unit))
        started = thread_time()
        FINDER.find(text)
        times.append(thread_time() - started)
    assert times[1] < 10 * times[0] + 0.05


# -- in the stage


def stage(says: dict[str, tuple[str, float]]) -> Classification:
    class Judging(ScriptedClassifier):
        def glance(self, text: str) -> tuple[str, float] | None:
            return glance(text)

    return Classification(
        RuleMatcher({}), Judging({text: labels(task, 0.9, score) for text, (task, score) in says.items()})
    )


def asking(*turns: str) -> Request:
    return Request("auto", tuple(Message("user", turn) for turn in turns))


async def test_the_decisions_notes_say_what_was_read() -> None:
    text = f"{REMINDER}\n{WORDS}"
    got = await stage({WORDS: ("lost", 2.0)}).label(asking(text))
    assert (got.task, got.notes) == ("lost", (f"read {len(WORDS)} of {len(text)} characters: claude-code",))


async def test_messages_without_the_users_words_are_no_turns() -> None:
    got = await stage({WORDS: ("lost", 2.0)}).label(asking(WORDS, REMINDER))
    assert got.task == "lost"
    nothing = await stage({}).label(asking(REMINDER))
    assert (nothing.abstained, nothing.notes) == (True, ("there is no user message",))


RIVALS = f"Transcript follows.\n\n---\n{WORDS}\n---\n{OTHER}\n---"


@pytest.mark.parametrize(
    ("says", "task"),
    [
        ({WORDS: ("lost", 2.0), OTHER: ("booking", 2.0)}, "unknown"),
        ({WORDS: ("lost", 2.0), OTHER: ("booking", -1.0)}, "lost"),
        ({WORDS: ("lost", -1.0), OTHER: ("booking", 2.0)}, "booking"),
        ({WORDS: ("lost", 0.1), OTHER: ("booking", -1.0)}, "unknown"),
    ],
)
async def test_parts_of_several_tasks_are_weighed_by_the_whole_classifier(
    says: dict[str, tuple[str, float]], task: str
) -> None:
    got = await stage(says).label(asking(RIVALS))
    assert got.task == task
    assert (CONTRADICTION_NOTE in got.notes) == (min(score for _, score in says.values()) > 1)
