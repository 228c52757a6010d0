"""`python -m pointsman_lab data` makes data sets from stored answers; each prompt occurs once, and in one split
only."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.flywheel import LearningConfig
from pointsman_gateway.config.load import Config, load_config
from pointsman_gateway.domain import Caller, CompletedAnswer, Feedback, Message, Request
from pointsman_gateway.domain import Path as Way
from pointsman_gateway.request_log import redis_schema
from pointsman_lab.datasets.build import BuildOrder, build, plan_report, read_evaluation_keys, read_teacher_answers
from pointsman_lab.datasets.rows import Row, Source, WrittenDataSet, group_of, prompt_key, split
from pointsman_lab.datasets.samples import AnswerFeedback, Extracted, ExtractionTerms, Sample, StoredAnswer, extract
from pointsman_lab.prediction.evaluation import read_evaluation
from pointsman_lab.redis_log import open_redis_log
from redis.asyncio import Redis

from tests.gateway.doubles.config_folder import IN_TRIAGE, ConfigFolder
from tests.gateway.doubles.request_logs import RequestLogHarness, decision, entries_of, receipt
from tests.gateway.doubles.tenancy import register_at
from tests.gateway.doubles.valkey import Valkey

TERMS = ExtractionTerms("triage", "triage_few_shot", 0.8)
GOOD = ("accepted",)
DEEP = "[" * 100_000


def sample(*answers: StoredAnswer, kind: str = "prompt", text: str = "I lost my hat", **received: Any) -> Sample:
    return Sample("d1", "acme", kind, ({"role": "user", "content": text},), answers, AnswerFeedback(**received))


def few_shot(text: str, *rulings: str) -> StoredAnswer:
    return StoredAnswer("triage_few_shot", text, rulings)


def adapter(text: str, *rulings: str) -> StoredAnswer:
    return StoredAnswer("triage_adapter", text, rulings)


def row(text: str, answer: str, source: Source = Source.RATED) -> Row:
    return Row((("user", text),), answer, source)


def source_of(extracted: Extracted) -> Source | None:
    return extracted.row.source if extracted.row else None


# -- extraction from one sample


def test_the_teachers_accepted_answers_are_used_and_the_students_own_are_not() -> None:
    assert source_of(extract(sample(few_shot("{}", *GOOD)), TERMS)) is Source.ACCEPTED
    assert extract(sample(adapter("{}", *GOOD)), TERMS).rejected == "unrated and not the teacher's"
    assert extract(sample(few_shot("{}")), TERMS).rejected == "neither rated nor validated"
    assert extract(sample(few_shot("{}", "unjudged")), TERMS).rejected == "neither rated nor validated"


def test_a_rating_counts_more_than_a_validator() -> None:
    assert source_of(extract(sample(adapter("{}", "refused"), rating=0.9), TERMS)) is Source.RATED
    assert extract(sample(few_shot("{}", *GOOD), rating=0.5), TERMS).rejected == "low rating"


def test_a_correction_has_priority_and_forms_a_preference_pair() -> None:
    found = extract(sample(few_shot("wrong", *GOOD), rating=1.0, right_answer='{ "intent":"refund" }'), TERMS)
    assert found.row is not None
    assert (found.row.source, found.row.answer) == (Source.EXPERT, '{"intent": "refund"}')
    assert [(pair.right.answer, pair.wrong) for pair in found.pairs] == [('{"intent": "refund"}', "wrong")]


def test_corrections_of_answers_with_passages_are_marked() -> None:
    found = extract(sample(StoredAnswer("handbook", "No dogs."), kind="rag", right_answer="Dogs may travel."), TERMS)
    assert found.row is not None
    assert found.row.source is Source.RETRIEVAL_CORRECTED


def test_a_refused_answer_and_its_replacement_form_a_pair() -> None:
    found = extract(sample(adapter("bad", "refused"), few_shot("good", *GOOD)), TERMS)
    assert [(pair.right.answer, pair.wrong) for pair in found.pairs] == [("good", "bad")]


def test_samples_of_other_tasks_or_with_other_content_are_skipped() -> None:
    assert extract(sample(few_shot("{}", *GOOD), right_task="refund"), TERMS).rejected == "another task"
    tools = Sample("d1", "", "prompt", ({"role": "tool", "content": "3", "tool_call_id": "x"},), (few_shot("{}"),))
    assert extract(tools, TERMS).rejected == "not only text"


# -- splitting


def test_each_prompt_occurs_once_with_the_best_and_latest_answer() -> None:
    rows = [
        row("Where is it", "a", Source.EXPERT),
        row("where  IS it", "b"),
        row("When", "c"),
        row("when", "d"),
        row("when", "d"),
    ]
    data = split(rows, [], set(), 0.0)
    assert {(one.key, one.answer) for one in data.train} == {("user: where is it", "a"), ("user: when", "d")}
    assert data.dropped == {"duplicate": 1, "replaced by a better source": 2}


def test_a_prompts_split_does_not_depend_on_other_prompts() -> None:
    few = split([row(f"number {word}", "x") for word in "abcdefghij"], [], set(), 0.3)
    many = split([row(f"number {word}", "x") for word in "abcdefghijklmnopqrstuvwxyz"], [], set(), 0.3)
    assert {one.key for one in few.heldout} <= {one.key for one in many.heldout}
    assert 0 < len(many.heldout) < 26


def test_prompts_that_differ_only_in_numbers_are_in_one_split() -> None:
    data = split([row(f"booking LM-{number}", str(number)) for number in range(40)], [], set(), 0.5)
    assert not (data.train and data.heldout)


def test_evaluation_prompts_and_similar_ones_are_not_in_the_training_set() -> None:
    evaluation = {prompt_key((("user", "Refund please. LM-77120."),))}
    rows = [row("refund  please. LM-77120.", "a"), row("Refund please. LM-5.", "b"), row("another", "c")]
    data = split(rows, [], evaluation, 0.0)
    assert [one.answer for one in data.train] == ["c"]
    assert data.dropped == {"held out by the configuration": 2}
    assert not {group_of(one.key) for one in data.train} & {group_of(key) for key in evaluation}


# -- building, with a real Valkey


@pytest.fixture
def config(config_folder: ConfigFolder) -> Config:
    config_folder.rest_of_tasks["learning"] = {"tasks": ["triage"], "anonymous_consent": True}
    config_folder.tasks["triage"]["flywheel"] = {
        "student": "triage_adapter",
        "teacher": "triage_few_shot",
        "eval_data": "heldout.jsonl",
        "data": {"examples": False},
    }
    folder = config_folder.write()
    (folder / "heldout.jsonl").write_text(json.dumps({"text": "I lost 2 hats", "output": "x"}) + "\n")
    return load_config(folder)


def remember(harness: RequestLogHarness, number: int, text: str, answer: str, tenant: str = "") -> str:
    path = Way("triage_few_shot", "tiny", fingerprint="f")
    made = decision(f"d{number}", task="triage", path=path)
    caller = Caller("k", tenant, training_consent=frozenset({"triage"})) if tenant else Caller()
    request = Request("auto", (Message("user", text),), caller=caller)
    answered = (CompletedAnswer("triage_few_shot", answer, (("regex", "accepted", ""),)),)
    harness.recorder.note(request, made, receipt(made), answered)
    return made.id


async def built(config: Config, valkey: Valkey, root: Path, taught: Path | None = None) -> WrittenDataSet:
    async with open_redis_log(valkey.url) as log:
        return await build(config, log, BuildOrder("triage", root, taught))


def lines(written: WrittenDataSet, *files: str) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for file in files for line in (written.folder / file).read_text().splitlines()]


async def test_a_data_set_is_named_by_its_content_and_describes_its_origin(
    config: Config, harness: RequestLogHarness, valkey: Valkey, tmp_path: Path
) -> None:
    harness.store.learning = config.tasks.learning
    for number, word in enumerate(("hat", "bag", "coat", "case", "book")):
        remember(harness, number, f"I lost my {word}", "{}")
    await harness.written()
    await harness.store.add_feedback(Feedback("d0", id="f", right_answer='{"intent": "lost_item"}'), 1, "c")
    first = await built(config, valkey, tmp_path)
    assert {one["text"] for one in lines(first, "train.jsonl", "heldout.jsonl")} == {
        f"I lost my {word}" for word in ("hat", "bag", "coat", "case", "book")
    }
    counts = first.manifest["counts"]
    assert counts["train"] + counts["heldout"] == 5
    assert counts["pairs"] + counts["heldout_pairs"] == 1
    assert sorted(first.manifest["decisions"]["train"] + first.manifest["decisions"]["heldout"]) == [
        f"d{n}" for n in range(5)
    ]
    assert first.manifest["tenants"] == {"": 5}
    again = await built(config, valkey, tmp_path)
    assert (again.folder, again.is_new) == (first.folder, False)

    remember(harness, 9, "I lost my shoe", "{}")
    await harness.written()
    second = await built(config, valkey, tmp_path)
    assert second.folder != first.folder
    assert second.manifest["parent"] == first.folder.name
    assert (tmp_path / "triage" / "latest").read_text().strip() == second.folder.name


async def test_withdrawn_consent_removes_rows_from_redis_and_the_next_data_set(
    config: Config, harness: RequestLogHarness, valkey: Valkey, tmp_path: Path
) -> None:
    harness.store.learning = config.tasks.learning
    remember(harness, 1, "I lost my hat", "{}", tenant="acme")
    remember(harness, 2, "I lost my bag", "{}", tenant="bolt")
    await harness.written()
    async with register_at(valkey.url) as register, Redis.from_url(valkey.url, decode_responses=True) as redis:
        await register.consent("acme", ["triage"])
        await register.consent("bolt", ["*"])
        both = await built(config, valkey, tmp_path)
        await register.consent("acme", [])
        rest = await built(config, valkey, tmp_path)
        entries = await entries_of(redis, redis_schema.TRAINING_SAMPLES)
        assert [fields["decision"] for fields in entries] == ["d2"]
    assert (both.manifest["tenants"], rest.manifest["tenants"]) == ({"acme": 1, "bolt": 1}, {"bolt": 1})
    assert rest.manifest["withdrawn"] == 1
    assert "hat" not in str(lines(rest, "train.jsonl", "heldout.jsonl"))


async def test_without_training_in_the_configuration_nothing_is_read_or_removed(
    config: Config, harness: RequestLogHarness, valkey: Valkey, tmp_path: Path
) -> None:
    harness.store.learning = config.tasks.learning
    remember(harness, 1, "I lost my hat", "{}", tenant="acme")
    await harness.written()
    folder = ConfigFolder(config.folder)
    folder.tasks["triage"]["flywheel"] = {
        "student": "triage_adapter",
        "teacher": "triage_few_shot",
        "data": {"examples": False},
    }
    written = await built(load_config(folder.write()), valkey, tmp_path)
    assert written.manifest["counts"]["train"] + written.manifest["counts"]["heldout"] == 0
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        assert await redis.xlen(redis_schema.TRAINING_SAMPLES) == 1


async def test_requested_teacher_answers_are_used_if_validators_accept_them(
    config: Config, harness: RequestLogHarness, valkey: Valkey, tmp_path: Path
) -> None:
    folder = ConfigFolder(config.folder)
    folder.tasks["triage"] |= {
        "flywheel": {"student": "triage_adapter", "teacher": "triage_few_shot"},
        "validators": [{"json_schema": {"type": "object"}}],
    }
    taught = tmp_path / "taught.jsonl"
    taught.write_text("\n".join(json.dumps({"text": t, "answer": a}) for t, a in (("hi", "{}"), ("ho", "no JSON"))))
    written = await built(load_config(folder.write()), valkey, tmp_path, taught)
    sources = [written.manifest["sources"][side].get("teacher", 0) for side in ("train", "heldout")]
    assert sum(sources) == 1
    assert written.manifest["dropped"]["refused by a validator"] == 1
    assert IN_TRIAGE in str(lines(written, "train.jsonl", "heldout.jsonl"))  # the task's examples are rows too


def test_a_teachers_answer_may_contain_unicode_line_separators(tmp_path: Path) -> None:
    taught = tmp_path / "taught.jsonl"
    taught.write_text(json.dumps({"text": "hi", "answer": "one\u2028two"}, ensure_ascii=False) + "\n\n", "utf-8")
    rows, refused = read_teacher_answers(taught, ())
    assert ([row.answer for row in rows], refused) == (["one\u2028two"], 0)


def test_an_answer_that_is_nested_too_deeply_is_a_text(tmp_path: Path) -> None:
    taught = tmp_path / "taught.jsonl"
    taught.write_text(json.dumps({"text": "hi", "answer": DEEP + " "}))
    rows, refused = read_teacher_answers(taught, ())
    assert ([row.answer for row in rows], refused) == ([DEEP], 0)


@pytest.mark.parametrize("line", ["{", DEEP, "1" * 5000])
def test_a_line_that_is_not_json_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "one", "answer": "two"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2 is not a held-out row"):
        read_evaluation_keys(file)
    with pytest.raises(ConfigError, match=r"rows\.jsonl:2 is not \{"):
        read_teacher_answers(file, ())
    with pytest.raises(ConfigError, match=r"rows\.jsonl cannot be read as JSON lines"):
        read_evaluation(file, file, ("triage",))


def test_the_plan_has_all_that_a_flywheel_needs(config: Config) -> None:
    facts = plan_report(config, "triage").facts
    assert (facts["alias"], facts["sampling"]) == ("triage@prod", {"max_tokens": 60, "temperature": 0})
    assert Path(facts["heldout"]).read_text() == '{"text": "I lost 2 hats", "output": "x"}\n'
    assert facts["gates"]["max_regressions"] == 0.1
    assert not facts["is_rendered"]


def test_rows_of_a_student_with_strategies_are_rendered(config_folder: ConfigFolder) -> None:
    config_folder.tasks["triage"]["flywheel"] = {"student": "letter", "teacher": "triage_few_shot"}
    facts = plan_report(load_config(config_folder.write()), "triage").facts
    assert (facts["alias"], facts["is_rendered"]) == ("voice@prod", True)


@pytest.mark.parametrize(
    ("flywheel", "message"),
    [
        ({"student": "triage_adapter", "teacher": "few"}, "names path 'few'; known: handbook"),
        ({"student": "small_talk", "teacher": "triage_few_shot"}, "'small_talk' has no adapter's alias"),
        ({"student": "triage_adapter", "teacher": "triage_adapter"}, "student and teacher are both"),
    ],
)
def test_an_invalid_retraining_configuration_is_rejected(
    config_folder: ConfigFolder, flywheel: dict[str, str], message: str
) -> None:
    config_folder.tasks["triage"]["flywheel"] = flywheel
    with pytest.raises(ConfigError, match=message):
        load_config(config_folder.write())


def test_held_out_rows_are_identified_by_their_prompts(tmp_path: Path) -> None:
    file = tmp_path / "heldout.jsonl"
    two = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "My hat"},
    ]
    file.write_text(json.dumps({"text": "My  HAT", "facts": ["x"]}) + "\n\n" + json.dumps({"messages": two}) + "\n")
    assert read_evaluation_keys(file) == {"user: my hat", "user: hi\nassistant: yes?\nuser: my hat"}
    file.write_text('\ufeff{"text": "one\u2028more"}\n', "utf-8")
    assert read_evaluation_keys(file) == {"user: one more"}
    file.write_text('{"text": "one"}\n{"question": "two"}\n')
    with pytest.raises(ConfigError, match=r"heldout\.jsonl:2 is not a held-out row"):
        read_evaluation_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_evaluation_keys(tmp_path / "missing.jsonl")


def test_a_task_without_a_flywheel_has_no_plan(config: Config) -> None:
    with pytest.raises(ConfigError, match="task 'chat' has no flywheel"):
        plan_report(config, "chat")


def test_collecting_samples_without_a_request_log_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        LearningConfig(tasks=())
