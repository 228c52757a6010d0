"""Measures what external processing adds to a request through Envoy, at a constant rate, on one core for the gateway.

Envoy's time without the filter is subtracted quantile by quantile. `--rate` is in requests/s, `--seconds` the time of
each measurement. The last line is JSON.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.engine import DONE, chunk, running_engine, usage
from tests.gateway.doubles.envoy_ext_proc import running_envoy_with_processor
from tests.gateway.doubles.process_gateway import process_gateway
from tests.ports import free_port
from tests.security.measuring import cpu_seconds

MODELS = Path(__file__).parents[1] / ".pointsman" / "models" / "minilm"
PROMPT = "Summarize this paragraph in one sentence. " * 20
FILTER = "name: pointsman\n                    "
SKIPPED = ((f"{FILTER}typed", f"{FILTER}disabled: true\n                    typed"),)
"""The change of Envoy's configuration that leaves out the filter."""
WARM_UP_SECONDS = 2.0


async def measure(url: str, rate: float, seconds: float, engine: str) -> Sequence[float]:
    """Sends requests at a constant rate; returns the sorted seconds of each, from the time at which it was due."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "stream": True}
    headers = {"x-gateway-destination-endpoint": engine.removeprefix("http://")}
    found: list[float] = []

    async def ask(session: aiohttp.ClientSession, due: float) -> None:
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
            text = await answer.read()
            assert answer.status == 200, text
            assert text.endswith(DONE), text
        found.append(time.perf_counter() - due)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session, asyncio.TaskGroup() as group:
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(session, due))
    return sorted(found)


def quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


async def run(rate: float, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(running_engine())
            engine.says(chunk("Hello", role="assistant"), chunk("", finish="stop"), usage(), DONE)
            config = ConfigFolder(folder / "config")
            config.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
            config.paths, config.tasks = {"safe_start": {"model": "tiny"}}, {}
            address = f"127.0.0.1:{free_port()}"
            settings = {"config": config.write(), "embedding_model": MODELS, "ext_proc_listen": address}
            gateway = await stack.enter_async_context(process_gateway(folder, **settings))
            (folder / "plain").mkdir()
            through = await stack.enter_async_context(running_envoy_with_processor(folder, address))
            plain = await stack.enter_async_context(running_envoy_with_processor(folder / "plain", address, *SKIPPED))
            times = {}
            for case, url in (("plain", plain), ("ext_proc", through)):
                await measure(url, rate, WARM_UP_SECONDS, engine.url)
                before = cpu_seconds(gateway.pid)
                times[case] = await measure(url, rate, seconds, engine.url)
                cores = (cpu_seconds(gateway.pid) - before) / seconds
                p50, p99 = (1000 * quantile(times[case], share) for share in (0.5, 0.99))
                print(f"{case:>9}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, gateway's cores {cores:.2f}")
    added = {
        f"p{share}": 1000 * (quantile(times["ext_proc"], share / 100) - quantile(times["plain"], share / 100))
        for share in (50, 99)
    }
    print(
        json.dumps(
            {
                "benchmark": "ext_proc",
                "rate": rate,
                "requests": len(times["ext_proc"]),
                "gateway_cores": round(cores, 3),
                "added_ms": {name: round(value, 2) for name, value in added.items()},
            }
        )
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    asyncio.run(run(given.rate, given.seconds))
