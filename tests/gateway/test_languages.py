"""A text in a foreign language is sent to the default path; no English text ever is for this reason."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman_embedding import StaticModel
from pointsman_gateway.classification.reader import ANOTHER_LANGUAGE, ANOTHER_SCRIPT, NO_LANGUAGE, LanguageDetector
from pointsman_gateway.classification.rules import RuleMatcher
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.config.field_types import PolicyConfig
from pointsman_gateway.config.tasks_file import RuleConfig, TaskConfig
from pointsman_gateway.domain import Message, Request

from tests.gateway.doubles.api_clients import ApiClient, HttpClient
from tests.gateway.doubles.classifier import ScriptedClassifier, labels
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.gateway import Neighbours, open_http_client

GERMAN = "Ich habe gestern meinen Regenschirm im Zug nach Saltby vergessen."
HELPDESK = Path(__file__).parents[2] / "examples" / "helpdesk"


@pytest.fixture
def english() -> LanguageDetector:
    return LanguageDetector(["en"])


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (GERMAN, "de"),
        ("J'ai oublié mon parapluie dans le train de huit heures.", "fr"),
        ("cuanto cuesta un billete de ida y vuelta para dos personas", "es"),
        ("Mag mijn fiets mee in de trein?", "nl"),
        ("Czy mogę zabrać rower do pociągu?", "pl"),
        ("Чи можна взяти велосипед у поїзд?", "uk"),
        ("שכחתי את המטרייה שלי ברכבת", "he"),
        ("電車に傘を忘れました。どうすればいいですか", "ja"),
        ("привет", ANOTHER_SCRIPT),
        (GERMAN.upper(), "de"),
        (GERMAN + " " + "Bitte helfen Sie mir, ich brauche ihn morgen wieder. " * 3000, "de"),
    ],
)
def test_another_language_is_recognised(english: LanguageDetector, text: str, language: str) -> None:
    assert english.foreign(text) == language


@pytest.mark.parametrize(
    "text",
    [
        "Danke",
        "Penny Hill Mossgill Ellerbeck Saltby",
        "LM-48213",
        "0142 3344",
        "how r u m8",
        "My name is Jürgen Müller and I left my hat on the 8.15",
        "Draft a reply to this: 'Bonjour, je voudrais savoir si les chiens voyagent gratuitement dans vos trains.'",
        "The word for train in Japanese is 電車 and for ticket 切符",
        "the angle α is what",
        "asdkfj alsdkjf aslkdjf",
    ],
)
def test_a_text_that_may_be_english_is_accepted(english: LanguageDetector, text: str) -> None:
    assert english.foreign(text) == ""


@pytest.fixture(scope="session")
def with_words(static_model: StaticModel) -> LanguageDetector:
    """Returns a detector that knows the words of the embedding model's vocabulary and of two examples."""
    of_examples = {"cancel", "my", "wagonette", "bonjour"}
    return LanguageDetector(["en"], lambda word: word in of_examples or static_model.knows(word))


@pytest.mark.parametrize(
    "text",
    ["Danke", "danke schön!", "Vielen Dank", "Passwort vergessen", "mein Konto", "gracias", "muchas gracias", "¿dónde?",
     "objeto perdido", "Verspätung", "nein danke", "Gepäck verloren", "hasta luego", "Rechnung stornieren"],
)  # fmt: skip
def test_a_short_text_of_unknown_words_in_another_language_is_not_taken_for_english(
    english: LanguageDetector, with_words: LanguageDetector, text: str
) -> None:
    assert with_words.foreign(text) == ANOTHER_LANGUAGE
    assert english.foreign(text) in ("", ANOTHER_SCRIPT)


@pytest.mark.parametrize(
    "text",
    ["thanks", "password", "refund please", "time in tokyo", "hiya!", "wassup", "dunno", "bonjour", "my wagonette",
     "LM-38271", "0142 3344", "Saltby", "cancel it", "book flight"],
)  # fmt: skip
def test_a_short_text_of_known_words_or_of_no_language_is_accepted(with_words: LanguageDetector, text: str) -> None:
    assert with_words.foreign(text) == ""


@pytest.mark.parametrize("languages", [["de"], ["en", "de"], []])
def test_short_texts_are_accepted_unless_the_examples_are_in_english_alone(
    static_model: StaticModel, languages: list[str]
) -> None:
    assert [LanguageDetector(languages, static_model.knows).foreign(text) for text in ("gracias", "Danke")] == ["", ""]


def test_all_of_the_help_desks_own_texts_are_accepted(with_words: LanguageDetector) -> None:
    files = [*(HELPDESK / "config/tasks").glob("*.jsonl"), HELPDESK / "heldout/triage.jsonl"]
    texts = [json.loads(row)["text"] for file in files for row in file.read_text("utf-8").splitlines()]
    assert len(texts) > 1000
    assert [text for text in texts if with_words.foreign(text)] == []


@pytest.mark.parametrize("text", ["👍", "?!…", "🚂🚃🚃", "\u202e\u200b", ""])
def test_a_text_without_letters_and_digits_has_no_language(text: str) -> None:
    assert LanguageDetector(["en"]).foreign(text) == LanguageDetector([]).foreign(text) == NO_LANGUAGE


@pytest.mark.parametrize(
    "text", ["\ud800 ein halbes Zeichen und noch mehr davon", "\ufffe\uffff kein Text ist das hier"]
)
def test_a_text_that_the_detector_rejects_is_accepted(english: LanguageDetector, text: str) -> None:
    assert english.foreign(text) in ("", "de")


def test_the_languages_of_the_examples_are_accepted() -> None:
    assert LanguageDetector(["en", "de"]).foreign(GERMAN) == ""
    assert LanguageDetector(["de"]).foreign("Please tell me where the station is and how I get there") == "en"
    assert LanguageDetector(["en", "uk"]).foreign("привет") == ""
    assert LanguageDetector([]).foreign(GERMAN) == ""


# -- in the stage


def asking(*turns: str, **more: object) -> Request:
    return Request("auto", tuple(Message("user", turn) for turn in turns), **more)  # type: ignore[arg-type]


async def test_a_text_in_another_language_is_not_classified_and_the_labels_say_why() -> None:
    classifier = ScriptedClassifier({})
    got = await Classification(RuleMatcher({}), classifier).label(asking(GERMAN))
    assert (got.task, got.abstained, got.stage, got.notes) == ("unknown", True, "language", ("language: de",))
    assert classifier.read == []


async def test_the_language_of_a_long_text_is_detected_at_both_ends() -> None:
    text = GERMAN * 500
    got = await Classification(RuleMatcher({}), ScriptedClassifier({})).label(asking(text))
    assert got.notes == ("language: de", f"read the first and the last 4096 of {len(text)} characters")


async def test_a_multilingual_encoder_reads_other_languages_alone_and_nothing_else() -> None:
    classifier = ScriptedClassifier({GERMAN: labels("booking")})
    stage = Classification(RuleMatcher({}), classifier, knows_word={"hello"}.__contains__, is_multilingual=True)
    assert (await stage.label(asking(GERMAN))).task == "booking"
    for text in ("Danke", "привет", "hello", "Where is the station, please?", GERMAN * 20):
        await stage.label(asking(text))
    assert classifier.foreign[:3] == [GERMAN, "Danke", "привет"]
    assert classifier.foreign[3:] == classifier.read[5:], "the ends of the long text, and then all of it"
    assert (await stage.label(asking("👍"))).notes == ("language: none",)


async def test_rules_come_before_the_language() -> None:
    rule = RuleConfig(name="inbox", metadata={"source": "inbox"})
    rules = RuleMatcher(
        {"triage": TaskConfig(examples="x", policy=PolicyConfig.model_validate({"fixed": "p"}), rules=(rule,))}
    )
    got = await Classification(rules, ScriptedClassifier({})).label(asking(GERMAN, metadata={"source": "inbox"}))
    assert (got.task, got.stage) == ("triage", "rule:inbox")


async def test_a_bare_follow_up_to_another_language_gets_the_same_labels() -> None:
    stage = Classification(RuleMatcher({}), ScriptedClassifier({}))
    assert (await stage.label(asking(GERMAN, "👍"))).notes == ("language: de",)
    assert (await stage.label(asking("Where is the station, please?", GERMAN))).notes == ("language: de",)


# -- through the APIs


async def test_another_language_takes_the_default_path_and_the_decision_says_so(api: ApiClient) -> None:
    result = await api.route(GERMAN)
    assert (result["task"], result["path"], result["reason"], result["stage"]) == (
        "unknown",
        "safe_start",
        "abstained",
        "language",
    )
    assert list(result["notes"]) == ["language: de"]
    assert (await api.ask(GERMAN)).path == "safe_start"
    for text, path in ((IN_TRIAGE, "triage_adapter"), (IN_POLICY, "handbook"), (IN_CHAT, "small_talk")):
        assert (await api.route(text))["path"] == path


async def test_german_is_accepted_if_the_configuration_lists_it(
    neighbours: Neighbours, config_folder: ConfigFolder
) -> None:
    config_folder.rest_of_tasks["classifier"] = {"languages": ["en", "de"]}
    config_folder.examples["triage"] += [
        (GERMAN, '{"intent": "lost_item"}'),
        ("Ich habe meine Tasche im Zug vergessen, bitte suchen Sie sie", '{"intent": "lost_item"}'),
    ]
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        assert (await HttpClient(client).route(GERMAN))["path"] == "triage_adapter"


WITHOUT_CLD2 = """
import logging, sys
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "pycld2" else found(name, *more)
from pointsman_gateway.classification.reader import ANOTHER_SCRIPT, LanguageDetector
logging.basicConfig()
detector = LanguageDetector(["en"])
print(repr(detector.foreign(sys.argv[1])), detector.foreign("\u043f\u0440\u0438\u0432\u0435\u0442") == ANOTHER_SCRIPT)
"""


def test_without_the_detectors_package_other_scripts_are_still_recognized() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_CLD2, GERMAN], capture_output=True, text=True, check=True)
    assert done.stdout == "'' True\n"
    assert "pycld2 is not installed" in done.stderr
