"""The calls of `pointsman retrain` to the gateway and to the lora-server, over real HTTP and real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman.v1 import lora_server_pb2_grpc, training_pb2, training_pb2_grpc
from pointsman_cli.errors import CommandError, UsageError
from pointsman_cli.retrain.data_step import Gateway, ModelAnswer
from pointsman_cli.retrain.rollout_steps import AliasState
from pointsman_cli.retrain.run_state import CanaryTerms
from pointsman_cli.retrain.train_step import Registry, Trainer, TrainingResult, TrainingSpec
from pointsman_cli.retrain.training_method import RetrainMethod, fetch_method

OLD, NEW = "triage@111111111111", "triage@222222222222"


def questions(*texts: str) -> list[Any]:
    return [({"role": "user", "content": text},) for text in texts]


def ask(gateway: Any, file: Path, *texts: str) -> list[ModelAnswer]:
    return asyncio.run(
        Gateway(gateway.url).answers(NEW, {"max_tokens": 9}, questions(*texts), file, lambda done, total: None)
    )


def test_questions_use_the_paths_settings_and_are_sent_once(gateway: Any, tmp_path: Path) -> None:
    gateway.body = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
    file = tmp_path / "answers.jsonl"
    assert [answer.text for answer in ask(gateway, file, "one", "two", "one")] == ["yes"] * 3
    asked = {one["messages"][0]["content"]: (one["model"], one["max_tokens"]) for one in gateway.asked}
    assert (asked, len(gateway.asked)) == ({"one": (NEW, 9), "two": (NEW, 9)}, 2)

    with file.open("ab") as torn:
        torn.write('{"place": "half of a lett\u00e9'.encode()[:-1])
    assert [answer.text for answer in ask(gateway, file, "one", "two", "three")] == ["yes"] * 3
    assert [answer.text for answer in ask(gateway, file, "one", "two", "three")] == ["yes"] * 3
    assert len(gateway.asked) == 3


def test_an_answer_may_contain_any_character_and_is_stored(gateway: Any, tmp_path: Path) -> None:
    gateway.body = {"choices": [{"message": {"content": "one\u2028two\x85"}, "finish_reason": "stop"}]}
    for _ in range(2):
        assert [answer.text for answer in ask(gateway, tmp_path / "answers.jsonl", "one")] == ["one\u2028two\x85"]
    assert len(gateway.asked) == 1


def test_an_error_for_one_question_is_recorded_as_its_answer(gateway: Any, tmp_path: Path) -> None:
    gateway.status, gateway.body = 400, {"error": {"message": "too long", "code": "context_length_exceeded"}}
    (answer,) = ask(gateway, tmp_path / "answers.jsonl", "one")
    assert (answer.text, answer.error) == ("", "context_length_exceeded")


def test_an_error_that_affects_all_questions_ends_the_run(gateway: Any, tmp_path: Path) -> None:
    gateway.status, gateway.body = 401, {"error": {"message": "no key", "code": "missing_key"}}
    with pytest.raises(CommandError, match=r"no key \(missing_key, HTTP 401\)"):
        ask(gateway, tmp_path / "answers.jsonl", "one")
    gateway.url = "http://127.0.0.1:9"
    with pytest.raises(CommandError, match="no gateway answers"):
        ask(gateway, tmp_path / "answers.jsonl", "one")


class LoraServer(lora_server_pb2_grpc.LoraServerServicer, training_pb2_grpc.TrainingServicer):
    def __init__(self) -> None:
        self.alias = pb.Alias(alias="triage@prod", version=OLD, canary_version=NEW, canary_requests=7)
        self.asked: list[Any] = []
        self.jobs: list[training_pb2.TrainingJob] = []

    async def List(self, request: Any, context: Any) -> Any:  # of both services
        if isinstance(request, training_pb2.ListTrainingJobsRequest):
            return training_pb2.ListTrainingJobsResponse(jobs=self.jobs)
        return pb.ListAdaptersResponse(aliases=[self.alias])

    async def CreateJob(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return training_pb2.TrainingJob(id="job-1")

    async def DescribeMethod(self, request: Any, context: Any) -> Any:
        return training_pb2.TrainingMethod(
            name=request.name, learns_from_pairs=request.name == "kto", must_be_merged=request.name == "whole"
        )

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield training_pb2.TrainingEvent(event="warning")
        done = training_pb2.TrainingEvent(event="done")
        done.facts.update({"steps": 14, "of_steps": 30, "ended_by": "time"})
        yield done

    async def Get(self, request: Any, context: Any) -> Any:
        return training_pb2.TrainingJob(id="job-1", state=training_pb2.TRAINING_STATE_SUCCEEDED, version=NEW)

    async def SetCanary(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return self.alias

    async def Retire(self, request: Any, context: Any) -> Any:
        self.asked.append(request)
        return pb.AdapterVersion(version=request.version)

    async def History(self, request: Any, context: Any) -> Any:
        changes = [
            pb.Change(kind="alias", subject="triage@beta"),
            pb.Change(kind="rollback", subject="triage@prod", reason="p95 900 ms against 200 ms"),
        ]
        return pb.HistoryResponse(changes=changes)


@pytest.fixture
def lora_server(grpc_server: Callable[..., str]) -> tuple[LoraServer, str]:
    servicer = LoraServer()

    def register(server: Any) -> None:
        lora_server_pb2_grpc.add_LoraServerServicer_to_server(servicer, server)
        training_pb2_grpc.add_TrainingServicer_to_server(servicer, server)

    return servicer, grpc_server("pointsman.v1.LoraServer", register)


async def test_the_lora_server_says_what_a_training_method_learns_from(lora_server: tuple[LoraServer, str]) -> None:
    assert await fetch_method(lora_server[1], "lora") == RetrainMethod("lora", learns_from_pairs=False)
    assert await fetch_method(lora_server[1], "kto") == RetrainMethod("kto", learns_from_pairs=True)
    with pytest.raises(UsageError, match="the result of --method whole is a whole model"):
        await fetch_method(lora_server[1], "whole")


async def test_an_alias_is_read_with_its_canary_and_the_reason_of_a_rollback(
    lora_server: tuple[LoraServer, str],
) -> None:
    registry = Registry(lora_server[1], "retrain 1")
    assert await registry.alias_state("triage@prod") == AliasState(OLD, NEW, 7)
    assert await registry.alias_state("triage@other") is None
    assert await registry.why_taken_back("triage@prod") == "p95 900 ms against 200 ms"


async def test_a_canary_is_set_with_its_terms_and_a_version_retired_with_a_reason(
    lora_server: tuple[LoraServer, str],
) -> None:
    servicer, address = lora_server
    registry = Registry(address, "retrain 1")
    await registry.set_canary("triage@prod", NEW, CanaryTerms(0.5, 8, 60.0), OLD)
    await registry.retire(NEW, "it is worse")
    canary, retired = servicer.asked
    assert (canary.weight, canary.expected_version, canary.terms.min_requests) == (0.5, OLD, 8)
    assert (retired.version, retired.reason, retired.author) == (NEW, "it is worse", "retrain 1")


async def test_a_training_is_found_by_its_run_and_started_once(lora_server: tuple[LoraServer, str]) -> None:
    servicer, address = lora_server
    received: list[str] = []
    trainer = Trainer(address, lambda kind, facts: received.append(kind))
    spec = TrainingSpec("triage", Path("/d"), None, "lora", "", {"rank": 4}, {"data_set": "t/1"}, "retrain 1")
    assert await trainer.start(spec) == "job-1"
    assert (servicer.asked[0].recipe.rank, dict(servicer.asked[0].facts)) == (4, {"data_set": "t/1"})
    failed = training_pb2.TrainingJob(id="job-0", author="retrain 1", state=training_pb2.TRAINING_STATE_FAILED)
    mine = training_pb2.TrainingJob(id="job-9", author="retrain 1", state=training_pb2.TRAINING_STATE_RUNNING)
    servicer.jobs = [failed, mine]
    assert await trainer.start(spec) == "job-9"
    cause = "the training was stopped after 14 of 30 steps by max_minutes: raise flywheel.training.max_minutes"
    assert await trainer.follow("job-9") == TrainingResult("succeeded", NEW, cut_short=cause)
    assert (received, len(servicer.asked)) == (["warning", "done"], 1)
