"""The parts of the gateway benchmark in which a bug would falsify results."""

import asyncio
import gc
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from benchmarks.gateway_load import answers, report
from benchmarks.gateway_load.contenders import DIRECT, LITELLM, NGINX, OURS, OURS_AUTO, VLLM_ROUTER, Contender
from benchmarks.gateway_load.findings import Findings
from benchmarks.gateway_load.grpc_calls import CallStatistics, MethodStatistics
from benchmarks.gateway_load.http_client import Answer, Broken, Connection, Target
from benchmarks.gateway_load.instruction_counter import InstructionCounter
from benchmarks.gateway_load.instructions import InstructionCount, component_rows
from benchmarks.gateway_load.latency import Latency, send_at_rate
from benchmarks.gateway_load.loop_trace import format_report
from benchmarks.gateway_load.loop_tracer import Iteration, LoopTracer
from benchmarks.gateway_load.profiling import summarize
from benchmarks.gateway_load.smoke import MAX_GRPC_OF_EMPTY, checks
from benchmarks.gateway_load.soak import fit_slope
from benchmarks.gateway_load.streams import Stream, StreamLoad, StreamStatistics
from benchmarks.gateway_load.targets import check_targets
from benchmarks.gateway_load.throughput import Throughput
from benchmarks.gateway_load.upstream import SLOWLY, MockEngine, Pace

ASKED = json.dumps({"messages": [{"role": "user", "content": "Hello"}]}).encode()
STREAMED = json.dumps({"stream": True, "messages": [{"role": "user", "content": "Hello"}]}).encode()


def reached(rps: float) -> Throughput:
    return Throughput(rps, rps, rps, p50_ms=1, p99_ms=2, cpu_us=3, resident_mb=4, failed=0)


@pytest.fixture
async def engines() -> AsyncIterator[dict[str, int]]:
    """Runs the benchmark's mock engine, and yields its port for each behaviour."""
    loop = asyncio.get_running_loop()
    pace = Pace(chunks=5, min_gap=0.001, max_gap=0.002)
    servers = {
        behaviour: await loop.create_server(partial(MockEngine, behaviour, pace), "127.0.0.1", 0)
        for behaviour in ("at_once", "paced", "failing", "cutting")
    }
    yield {behaviour: server.sockets[0].getsockname()[1] for behaviour, server in servers.items()}
    for server in servers.values():
        server.close()


async def ask(port: int, body: bytes) -> Answer:
    connection = await Connection.to(port)
    try:
        return await connection.ask(Target(port, "mock").request(body))
    finally:
        connection.close()


def test_noise_and_a_decrease_count_as_flat_and_a_slow_increase_does_not() -> None:
    chance = random.Random(1)
    seconds = [2.0 * number for number in range(500)]
    jitter = [chance.gauss(0, 0.5) for _ in seconds]
    assert fit_slope(seconds, [280 + j for j in jitter]).flat
    assert fit_slope(seconds, [280 - 0.01 * s + j for s, j in zip(seconds, jitter, strict=True)]).flat
    creeping = fit_slope(seconds, [280 + s / 3600 * 20 + j for s, j in zip(seconds, jitter, strict=True)])
    assert not creeping.flat
    assert creeping.low < 20 < creeping.high


def test_correlated_values_have_a_wider_interval_than_independent_ones() -> None:
    chance = random.Random(2)
    seconds = [2.0 * number for number in range(500)]
    wander, held = 0.0, []
    for _ in seconds:
        wander = 0.98 * wander + chance.gauss(0, 0.1)
        held.append(280 + wander)
    shuffled = held.copy()
    chance.shuffle(shuffled)
    wandering, jittering = fit_slope(seconds, held), fit_slope(seconds, shuffled)
    assert wandering.high - wandering.low > 3 * (jittering.high - jittering.low)


def test_the_slope_of_a_few_measurements_has_an_infinite_interval() -> None:
    assert fit_slope([0, 1, 2], [1, 2, 3]).low == float("-inf")


def test_slow_streams_are_requested_by_their_bodies() -> None:
    bodies: list[dict[str, object]] = [{"messages": [{"role": "user", "content": f"Question {n}"}]} for n in range(3)]
    one = Contender("x", "", Target(1, "mock"), Target(1, "mock"))
    requests = StreamLoad(4, slowly=True, max_seconds=1).encode_requests(one, bodies)
    assert [request.count(SLOWLY) for request in requests] == [1, 1, 1, 1]
    assert requests[3] == requests[0] != requests[1]


@pytest.mark.parametrize("size", [1, 3, 7, 50, 10_000])
def test_a_streams_chunks_are_counted_however_the_transport_cuts_them(size: int) -> None:
    events = answers.role() + answers.content(answers.TICK) * 4 + answers.finish() + answers.usage() + answers.DONE
    stream = Stream(started=0, last=0)
    for start in range(0, len(events), size):
        stream.receive(events[start : start + size])
    assert (stream.ticks, stream.complete) == (4, True)


def test_an_aborted_stream_is_incomplete_and_its_silence_counts_as_a_gap() -> None:
    stream = Stream(started=0, last=0)
    stream.receive(answers.content(answers.TICK))
    stream.finish(stream.last + 7)
    assert not stream.complete
    assert stream.longest_gap >= 7


async def test_the_mock_engines_plain_and_streamed_answers_have_equal_text_and_usage(
    engines: dict[str, int],
) -> None:
    plain = json.loads((await ask(engines["at_once"], ASKED)).body)
    events = (await ask(engines["at_once"], STREAMED)).body.split(b"\n\n")
    chunks = [json.loads(one.removeprefix(b"data: ")) for one in events[:-2]]
    text = "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])
    assert text == plain["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == plain["usage"]
    assert events[-2:] == [b"data: [DONE]", b""]


async def test_each_port_of_the_mock_engine_has_its_own_behaviour(engines: dict[str, int]) -> None:
    paced = await ask(engines["paced"], STREAMED)
    assert paced.body.count(answers.TICK.encode()) == 5
    assert paced.body.endswith(answers.DONE)
    assert (await ask(engines["failing"], STREAMED)).status == 500
    with pytest.raises(Broken):
        await ask(engines["cutting"], STREAMED)


async def test_every_request_of_a_fixed_rate_is_sent_and_counted(engines: dict[str, int]) -> None:
    waited = await send_at_rate(Target(engines["at_once"], "mock"), [ASKED], rate=500, seconds=0.4)
    assert waited.failed == 0
    assert 0 < waited.p50_ms <= waited.p99_ms < float("inf")


async def test_failed_requests_are_counted_with_infinite_latency(engines: dict[str, int]) -> None:
    waited = await send_at_rate(Target(engines["failing"], "mock"), [ASKED], rate=500, seconds=0.2)
    assert (waited.failed, waited.p50_ms) == (100, float("inf"))


def test_a_profile_covers_the_main_thread_and_attributes_c_code_to_its_caller() -> None:
    raw = """\
thread (1): MainThread;run (uvloop/loop.so);answer (pointsman_gateway/pipeline.py:7);f (_json.c:9) 6
thread (1): MainThread;answer (pointsman_gateway/pipeline.py:9);Py_DECREF (object.h:5) 3
thread (1): MainThread;answer (pointsman_gateway/pipeline.py:9);gc_collect_main (libpython3.11.so) 1
thread (2): asyncio_0;wait (threading.py:1) 90
"""
    found = summarize(raw)
    assert found.samples == 10
    assert found.packages == [("json", 0.6), ("pointsman_gateway/pipeline", 0.3), ("garbage collection", 0.1)]
    assert found.modules == [("pointsman_gateway/pipeline", 0.9), ("garbage collection", 0.1)]


def test_the_last_line_has_every_figure_and_null_for_unmeasured_ones() -> None:
    found = Findings(
        rates={OURS: reached(9000), VLLM_ROUTER: reached(10_000)}, missing={LITELLM: "LiteLLM is not installed: ..."}
    )
    printed = report.format_report(found)
    line = json.loads(printed.splitlines()[-1])
    assert (line["rps"], line["rps_vllm_router"], line["rps_litellm"], line["grpc_rps"]) == (9000, 10_000, None, None)
    assert list(line) == [
        "rps", "rps_auto", "rps_vllm_router", "rps_vllm_router_default", "rps_litellm", "rps_portkey",
        "added_p50_ms_at_200", "added_p99_ms_at_1000", "streams256_vs_direct", "first_chunk_added_p50_ms",
        "streams1000_vs_direct", "streams1000_first_chunk_added_p50_ms",
        "workers2_ratio", "workers2_ratio_nginx", "grpc_rps", "grpc_us", "grpc_vs_empty_server", "grpc_stream_us",
        "grpc_stream_vs_empty_server",
    ]  # fmt: skip
    assert "not installed" in printed


def test_two_workers_are_compared_with_one() -> None:
    found = Findings(workers={f"{OURS}, 1": reached(4000), f"{OURS}, 2": reached(7000)})
    assert found.workers2_ratio() == 1.75
    assert [target.met for target in check_targets(found)] == [True]


def test_the_smoke_run_fails_by_a_figure_beyond_its_bound_and_by_one_that_is_missing() -> None:
    calls = MethodStatistics(CallStatistics(1000, 1, 500, 1, 0), CallStatistics(2000, 1, 250, 1, 0))
    paced = {name: StreamStatistics(1000, 5, 0.1, 0, 0, 0) for name in (OURS, DIRECT)}
    rates = {name: reached(9000) for name in (OURS, OURS_AUTO, NGINX)}
    good = Findings(rates=rates, streams=paced, streams1000=paced, grpc=dict.fromkeys(MAX_GRPC_OF_EMPTY, calls))
    assert [str(check) for check in checks(good) if not check.holds] == []
    refused = replace(good, streams=paced | {OURS: replace(paced[OURS], refused=64)})
    assert [str(check) for check in checks(refused) if not check.holds] == [
        "256 streams, stalled, incomplete or refused: 64.00, at most 0"
    ]
    assert not any(check.holds for check in checks(Findings()))


def test_a_missed_target_is_reported() -> None:
    (target,) = check_targets(Findings(rates={OURS: reached(9000), VLLM_ROUTER: reached(10_000)}))
    assert (target.figure, target.met) == (0.9, False)


def test_instructions_are_counted_by_function_between_two_toggles(tmp_path: Path) -> None:
    def once() -> int:
        return 1

    def thrice() -> int:
        return once() + once() + once()

    counter, before = InstructionCounter(tmp_path / "counted.json"), sys.gettrace()
    once()  # not counted yet
    try:
        counter.toggle()
        thrice()
        counter.toggle()
    finally:
        sys.settrace(before)
    rows = {
        name.rpartition(".")[2]: (count, calls)
        for _, name, count, calls in json.loads((tmp_path / "counted.json").read_text())
    }
    assert (rows["once"][1], rows["thrice"][1]) == (3, 1)
    assert rows["once"][0] >= 3 * 2
    assert rows["thrice"][0] > rows["once"][0] / 3


def test_instructions_are_added_up_by_component() -> None:
    files = {
        "pointsman_gateway/http/server.py": 30,
        "pointsman_gateway/http/head.py": 25,
        "site-packages/jwt/api.py": 3,
    }
    named = InstructionCount(58, 9, 100, Counter(files))
    auto = InstructionCount(98, 9, 100, Counter(files | {"pointsman_gateway/breaker.py": 40}))
    rows = [["http", "55", "55"], ["breaker", "0", "40"], ["others", "3", "3"]]
    assert component_rows({"named": named, "auto": auto}) == rows


def hold_up_the_loop() -> None:
    until = time.perf_counter() + 0.02
    while time.perf_counter() < until:
        pass


@pytest.fixture
def loop_tracer() -> Iterator[LoopTracer]:
    tracer = LoopTracer()
    yield tracer
    tracer.close()


def test_a_long_iteration_of_the_loop_is_recorded_with_its_cause(loop_tracer: LoopTracer) -> None:
    async def work() -> None:
        hold_up_the_loop()
        await asyncio.sleep(0)
        loop_tracer.start()
        await asyncio.sleep(0.01)
        hold_up_the_loop()
        gc.collect()
        await asyncio.sleep(0.01)

    with asyncio.Runner(loop_factory=loop_tracer.new_loop) as runner:
        runner.run(work())
    longest = max(loop_tracer.stop(), key=lambda one: one.milliseconds)
    assert longest.cause == "test_gateway_load.py hold_up_the_loop"
    assert longest.milliseconds >= 20
    assert 0 < longest.gc_milliseconds < longest.milliseconds
    assert longest.cpu_milliseconds <= longest.milliseconds
    assert longest.at_seconds >= 0.01


def test_long_iterations_are_listed_and_summed_up_by_cause() -> None:
    iterations = [Iteration(0.5, 2.0, 1.9, 0.0, 3, "wal.py append"), Iteration(1.5, 4.0, 3.0, 2.5, 1, "wal.py append")]
    *lines, last = format_report(iterations, Latency(1.0, 2.0, 0)).splitlines()
    assert [line.split()[:2] for line in lines[2:4]] == [["1.500", "4.00"], ["0.500", "2.00"]]
    assert lines[-1].split() == ["2", "3.00", "4.00", "wal.py", "append"]
    assert json.loads(last)["long_iterations"] == 2
