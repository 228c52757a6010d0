"""The state machine of versions: a version reaches its correct final state even if something fails meanwhile."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pointsman.v1 import lora_server_pb2 as pb
from pointsman_lora_server.adapters.promotion import PromotionGate
from pointsman_lora_server.domain import AdapterVersion
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, Unavailable

from tests.lora_server.server_process import MakeAdapter, RunLoraServer, aliases, refusal


async def kinds(lora: Any, subject: str = "") -> list[str]:
    """Returns the kinds of the history, oldest first."""
    history = await lora.stub.History(pb.HistoryRequest())
    return [change.kind for change in reversed(history.changes) if subject in ("", change.subject)]


def measured(folder: Path, heldout: float | None, prompting: float | None) -> Path:
    """Writes measurements as a training run stores them, and returns their folder."""
    metrics = {"heldout_exact": heldout, "prompt_path_exact": prompting}
    known = {name: value for name, value in metrics.items() if value is not None}
    (folder / "training.json").write_text(json.dumps({"metrics": known}))
    return folder


async def test_a_version_is_smoke_tested_before_it_is_loaded(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        trial.hold()
        registering = asyncio.create_task(lora.register("triage", make_adapter(), "prod"))
        version = await first_version(lora)
        await lora.until_state(version, pb.ADAPTER_STATE_VALIDATING)
        assert await lora.asked() == []
        assert (await refusal(lora.ensure(version))).code == "not_ready"

        trial.release()

        assert (await registering).state == pb.ADAPTER_STATE_SERVING
        assert trial.tried == [version]
        assert await kinds(lora, version) == ["registered", "validating", "ready"]


async def first_version(lora: Any) -> str:
    async with asyncio.timeout(20):
        while not (versions := (await lora.stub.List(pb.ListAdaptersRequest())).versions):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
    return str(versions[0].version)


async def test_a_failed_smoke_test_marks_the_version_as_failed(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()

        error = await refusal(lora.register("triage", make_adapter(config={"trial": "not_finite"}), "prod"))

        assert (type(error), error.code) == (InvalidArgument, "not_finite")
        version = await first_version(lora)
        found = await lora.get(version)
        assert (found.state, found.last_error_code) == (pb.ADAPTER_STATE_FAILED, "not_finite")
        assert found.last_error == "it gives no numbers"
        assert await lora.asked() == []
        assert (await kinds(lora, version))[-1] == "failed"
        assert (await refusal(lora.set_alias("triage@prod", version))).code == "not_ready"


async def test_a_version_with_answers_different_from_peft_is_not_served(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        good = await lora.register("triage", make_adapter("a"), "prod")
        other = make_adapter("b", seed=1, config={"peft_ids": [1, 2, 3], "answer_ids": [1, 5, 3]})

        error = await refusal(lora.register("triage", other, "prod"))

        assert (type(error), error.code) == (InvalidArgument, "differs_from_peft")
        state = await lora.until(lambda state: list(state.resident) == [good.version] and not state.loadable)
        assert aliases(state) == {"triage@prod": good.version}
        assert state.engine_restarts == 0


async def test_a_version_with_answers_equal_to_peft_is_served(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        folder = make_adapter(config={"peft_ids": [1, 2, 3], "answer_ids": [1, 2, 3]})

        version = await lora.register("triage", folder, "prod")

        assert version.state == pb.ADAPTER_STATE_SERVING


async def test_an_unavailable_smoke_test_is_retried(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        trial.away = True
        error = await refusal(lora.register("triage", make_adapter(), "prod"))
        assert (type(error), error.code) == (Unavailable, "smoke_unavailable")

        trial.away = False

        state = await lora.until(lambda state: bool(state.aliases))
        assert list(aliases(state)) == ["triage@prod"]


@pytest.mark.parametrize("at", ["validating", "loading"])
async def test_a_restarted_lora_server_resumes(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any, at: str
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        if at == "validating":
            trial.hold()
        else:
            await lora.hold("loads")
        registering = asyncio.create_task(lora.register("triage", make_adapter(), "prod"))
        version = await first_version(lora)
        await lora.until_state(version, pb.ADAPTER_STATE_VALIDATING if at == "validating" else pb.ADAPTER_STATE_LOADING)
    await asyncio.gather(registering, return_exceptions=True)

    trial.release()
    async with run_lora_server() as lora:
        state = await lora.until(lambda state: bool(state.aliases))
        assert aliases(state) == {"triage@prod": version}
        await lora.until(lambda state: list(state.resident) == [version])
        assert (await lora.get(version)).state == pb.ADAPTER_STATE_SERVING


async def test_a_version_is_loaded_again_after_the_engine_died(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        await lora.hold("loads")
        registering = asyncio.create_task(lora.register("triage", make_adapter(), "prod"))
        version = await first_version(lora)
        await lora.until_asked(f"load {version}")

        lora.kill_engine()

        assert isinstance(await refusal(registering), Unavailable)
        state = await lora.until(lambda state: bool(state.aliases))
        assert aliases(state) == {"triage@prod": version}
        state = await lora.until_ready()
        assert (list(state.resident), state.engine_restarts) == ([version], 1)


async def test_an_outage_of_redis_during_a_smoke_test_delays_only_briefly(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any, valkey: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        trial.hold()
        registering = asyncio.create_task(lora.register("triage", make_adapter(), "prod"))
        version = await first_version(lora)
        await lora.until_state(version, pb.ADAPTER_STATE_VALIDATING)

        valkey.stop()
        trial.release()
        assert isinstance(await refusal(registering), Unavailable)
        valkey.start()

        state = await lora.until(lambda state: bool(state.aliases))
        assert aliases(state) == {"triage@prod": version}


async def test_of_two_lora_servers_one_smoke_tests_and_both_serve_a_version(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any
) -> None:
    async with run_lora_server(engine_name="here") as here, run_lora_server(engine_name="there") as there:
        await here.until_ready()
        await there.until_ready()

        version = await here.register("triage", make_adapter("a", seed=1), "prod")

        assert trial.tried == [version.version]
        for lora in (here, there):
            state = await lora.until(lambda state: bool(state.resident))
            assert (list(state.resident), aliases(state)) == ([version.version], {"triage@prod": version.version})
            assert await lora.chat(version.version) == version.version + " word word"
        new = await here.register("triage", make_adapter("b", seed=2))
        await there.set_alias("triage@prod", new.version)
        for lora in (here, there):
            state = await lora.until(lambda state: aliases(state) == {"triage@prod": new.version})
            await lora.until(lambda state: new.version in state.resident)
        assert trial.tried == [version.version, new.version]


async def test_another_lora_server_continues_the_work_of_a_dead_one(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any
) -> None:
    async with run_lora_server(engine_name="there") as there:
        await there.until_ready()
        trial.hold()
        async with run_lora_server(engine_name="here") as here:
            await here.until_ready()
            registering = asyncio.create_task(here.register("triage", make_adapter(), "prod"))
            version = await first_version(here)
            await here.until_state(version, pb.ADAPTER_STATE_VALIDATING)
        await asyncio.gather(registering, return_exceptions=True)

        trial.release()

        state = await there.until(lambda state: bool(state.aliases))
        assert aliases(state) == {"triage@prod": version}


async def test_an_adapter_no_better_than_prompting_is_registered_but_not_promoted(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        folder = measured(make_adapter(), 0.66, 0.73)

        error = await refusal(lora.register("triage", folder, "prod"))

        assert (type(error), error.code) == (FailedPrecondition, "not_better")
        assert "0.66" in error.message
        assert "0.73" in error.message
        version = await first_version(lora)
        await lora.until_state(version, pb.ADAPTER_STATE_READY)
        assert (await refusal(lora.set_alias("triage@prod", version))).code == "not_better"
        assert (await lora.set_alias("triage@next", version)).version == version  # that alias is not protected
        assert (await lora.set_alias("triage@prod", version, force=True)).version == version


async def test_a_canary_is_protected_like_a_promotion(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        await lora.register("triage", make_adapter("good"), "prod")
        version = (await lora.register("triage", measured(make_adapter("other", seed=1), 0.5, 0.6))).version

        def canary(weight: float, force: bool = False) -> Any:
            request = pb.SetCanaryRequest(alias="triage@prod", version=version, weight=weight, force=force)
            return lora.stub.SetCanary(request)

        for weight in (0.05, 1.0):
            assert (await refusal(canary(weight))).code == "not_better"
        assert (await canary(0.5, force=True)).canary_version == version


async def test_force_promotes_an_adapter_that_is_no_better(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()

        version = await lora.register("triage", measured(make_adapter(), 0.5, 0.5), "prod", force=True)

        assert list(version.aliases) == ["triage@prod"]


@pytest.mark.parametrize(
    ("ours", "prompting", "passes"),
    [(0.5, 0.4, True), (0.5, 0.5, False), (0.4, 0.5, False), (None, 0.5, True), (0.4, None, True)],
)
def test_the_gate_requires_improvement_and_accepts_unmeasured_adapters(
    ours: float | None, prompting: float | None, passes: bool
) -> None:
    metrics = {"heldout_exact": ours, "prompt_path_exact": prompting}
    known = {name: value for name, value in metrics.items() if value is not None}
    version = AdapterVersion("triage", "1" * 64, "tiny-base", 2, (), 1, 1, metrics=known)
    gate = PromotionGate(frozenset({"prod"}))

    gate.check(version, "next", force=False)
    gate.check(version, "prod", force=True)
    if passes:
        gate.check(version, "prod", force=False)
    else:
        with pytest.raises(FailedPrecondition):
            gate.check(version, "prod", force=False)


@pytest.mark.parametrize(("ours", "passes"), [(0.61, True), (0.43, False)])
def test_the_gate_uses_the_next_metric_if_no_answer_was_correct(ours: float, passes: bool) -> None:
    metrics = {"heldout_exact": 0.0, "prompt_path_exact": 0.0, "heldout_word_f1": ours, "prompt_path_word_f1": 0.43}
    version = AdapterVersion("voice", "1" * 64, "tiny-base", 2, (), 1, 1, metrics=metrics)
    gate = PromotionGate(frozenset({"prod"}))

    if passes:
        gate.check(version, "prod", force=False)
    else:
        with pytest.raises(FailedPrecondition, match=r"0\.43 on the held-out rows \(word_f1\)"):
            gate.check(version, "prod", force=False)


async def test_a_failed_version_that_is_registered_again_is_smoke_tested_again(
    run_lora_server: RunLoraServer, make_adapter: MakeAdapter, trial: Any
) -> None:
    async with run_lora_server() as lora:
        await lora.until_ready()
        folder = make_adapter(config={"trial": "not_finite"})
        for _ in range(2):
            assert (await refusal(lora.register("triage", folder))).code == "not_finite"

        assert len(trial.tried) == 2
