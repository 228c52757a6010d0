"""Measures how much of the prompts' beginnings two engines find in their prefix caches, with the help desk's requests.

    python -m benchmarks.prefix_affinity [--clients 8] [--rounds 2]

The real gateway and retriever answer the held-out messages with `model: "auto"`. The two engines are scripted: they
record the prompt's tokens and answer at once. The recorded prompts are then replayed into simulated prefix caches,
twice: with the engines that the gateway chose, and in turn (round robin). The caches work as in vLLM: blocks of 16
tokens, each identified by the hash of all tokens up to its end; the least recently used ones are dropped. vllm-router
with its default policy (cache-aware) gets the requests that the gateway sent to the engines. The last line of output is
one JSON object.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web
from tokenizers import Tokenizer

from benchmarks.gateway_load.http_client import HOST, Target, answers_at, post
from benchmarks.gateway_load.machine import (
    MODEL,
    ROOT,
    CannotMeasure,
    NotInstalled,
    describe_machine,
    free_ports,
    peer_program,
)
from benchmarks.gateway_load.processes import Processes

EXAMPLE = ROOT / "examples/helpdesk"
TOKENIZER = ROOT / ".pointsman/models/smollm2-135m/tokenizer.json"
ENGINES = ("a", "b")
BLOCK = 16
"""Number of tokens per block, vLLM's default."""
CAPACITIES = (256, 512, 1024, 4096)
"""Sizes of the cache in blocks per engine: 4,000 to 65,000 tokens."""
BOUNDS = {"prefix hash, load at most 1.25 times the mean": 1.25, "least loaded": 1.0}
ANSWER_SECONDS = 0.02
"""Time that an answer takes, so that requests overlap and the bound on the load matters."""
ANSWER = '{"intent": "refund", "slots": {}, "urgency": "normal"}'
"""An answer that the validators of the task `triage` accept."""
Prompts = list[tuple[str, list[int]]]
"""For each request, the engine and the prompt's blocks."""


class ScriptedEngines:
    """Engines that answer chat completions and record their prompts."""

    def __init__(self) -> None:
        self.prompts: Prompts = []
        self.bodies: list[dict[str, Any]] = []
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))

    @asynccontextmanager
    async def serving(self, port: int, name: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            body = await request.json()
            self.bodies.append(body)
            text = "".join(f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in body["messages"])
            tokens = self._tokenizer.encode(text, add_special_tokens=False).ids
            self.prompts.append((name, blocks_of(body["model"], tokens)))
            await asyncio.sleep(ANSWER_SECONDS)
            stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await stream.prepare(request)
            usage = {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}
            delta = {"index": 0, "delta": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}
            head = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}
            for event in ({**head, "choices": [delta]}, {**head, "choices": [], "usage": usage}):
                await stream.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            await stream.write(b"data: [DONE]\n\n")
            return stream

        async def health(request: web.Request) -> web.Response:
            return web.Response()

        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        app.router.add_get("/health", health)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        try:
            yield
        finally:
            await runner.cleanup()


def blocks_of(model: str, tokens: Sequence[int]) -> list[int]:
    """Returns the chained hashes of the full blocks. An adapter has blocks of its own, since it changes the cached
    values.
    """
    found, before = [], hash(model)
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        before = hash((before, *tokens[start : start + BLOCK]))
        found.append(before)
    return found


class PrefixCache:
    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: OrderedDict[int, None] = OrderedDict()

    def hits(self, blocks: Iterable[int]) -> int:
        """Returns how many leading blocks are cached, and caches all of them."""
        found, missed = 0, False
        for block in blocks:
            missed = missed or block not in self._held
            found += not missed
            self._held[block] = None
            self._held.move_to_end(block)
        while len(self._held) > self._capacity:
            self._held.popitem(last=False)
        return found


def hit_ratio(prompts: Prompts, capacity: int) -> float:
    """Returns the share of all blocks that the engines need not compute."""
    caches = {name: PrefixCache(capacity) for name in ENGINES}
    return sum(caches[name].hits(blocks) for name, blocks in prompts) / sum(len(blocks) for _, blocks in prompts)


def in_turn(prompts: Prompts) -> Prompts:
    return [(ENGINES[number % len(ENGINES)], blocks) for number, (_, blocks) in enumerate(prompts)]


# -- services


def write_config(folder: Path, ports: Sequence[int], bound: float) -> Path:
    """Writes the help desk's configuration with two engines that hold its adapters."""
    config = folder / f"config-{bound}"
    subprocess.run(["cp", "-r", str(EXAMPLE / "config"), str(config)], check=True)
    models = yaml.safe_load((config / "models.yaml").read_text().replace("${", "").replace(":-127.0.0.1:8083}", ""))
    adapters = ["triage@prod", "voice@prod"]
    models["engines"] = {
        name: {"model": "smollm2-135m", "url": f"http://{HOST}:{port}", "adapters": adapters}
        for name, port in zip(ENGINES, ports, strict=True)
    }
    models["resilience"] = {"load_bound": bound}
    (config / "models.yaml").write_text(yaml.safe_dump(models))
    tasks = yaml.safe_load((config / "tasks.yaml").read_text())
    tasks = {key: value for key, value in tasks.items() if key not in ("request_log", "learning")}
    for task in tasks["tasks"].values():
        task.pop("flywheel", None)
    (config / "tasks.yaml").write_text(yaml.safe_dump(tasks))
    return config


async def start_retriever(processes: Processes) -> int:
    port, metrics = free_ports(2)
    environment = {
        "POINTSMAN_RETRIEVER_LISTEN": f"{HOST}:{port}",
        "POINTSMAN_RETRIEVER_METRICS_LISTEN": f"{HOST}:{metrics}",
        "POINTSMAN_RETRIEVER_DATA": str(processes.folder / "retriever"),
        "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(MODEL),
    }
    running = processes.start("retriever", "0,1", [sys.executable, "-m", "pointsman_retriever"], environment)
    await running.until_ready(lambda: answers_at(metrics, "/readyz"), timeout_s=120)
    ingest = [sys.executable, "-m", "pointsman_cli", "ingest", "handbook", str(EXAMPLE / "handbook")]
    done = await asyncio.to_thread(
        subprocess.run, [*ingest, "--retriever", f"{HOST}:{port}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotMeasure(f"the handbook cannot be ingested: {done.stderr}")
    return port


async def measure_gateway(
    processes: Processes, bound: float, retriever: int, bodies: Sequence[dict[str, Any]], clients: int
) -> ScriptedEngines:
    engines, (http, grpc, *ports) = ScriptedEngines(), free_ports(4)
    environment = {
        "POINTSMAN_GATEWAY_HTTP_LISTEN": f"{HOST}:{http}",
        "POINTSMAN_GATEWAY_GRPC_LISTEN": f"{HOST}:{grpc}",
        "POINTSMAN_GATEWAY_CONFIG": str(write_config(processes.folder, ports, bound)),
        "POINTSMAN_GATEWAY_EMBEDDING_MODEL": str(MODEL),
        "POINTSMAN_GATEWAY_RETRIEVER": f"{HOST}:{retriever}",
        "POINTSMAN_GATEWAY_WAL_DIR": str(processes.folder / "wal"),
    }
    async with engines.serving(ports[0], "a"), engines.serving(ports[1], "b"):
        running = processes.start(f"gateway-{bound}", "0,1", [sys.executable, "-m", "pointsman_gateway"], environment)
        await running.until_ready(lambda: answers_at(http, "/readyz"), timeout_s=180)
        await send(http, bodies, clients)
        processes.end(running)
    return engines


async def measure_router(processes: Processes, bodies: Sequence[dict[str, Any]], clients: int) -> Prompts:
    """Sends the requests through vllm-router, and returns the prompts of each engine. Raises NotInstalled."""
    program = peer_program("vllm-router", "vllm-router")
    engines, (port, metrics, *ports) = ScriptedEngines(), free_ports(4)
    command = [program, "--host", HOST, "--port", str(port), "--prometheus-port", str(metrics), "--worker-urls"]
    async with engines.serving(ports[0], "a"), engines.serving(ports[1], "b"):
        running = processes.start("router", "0,1", [*command, *(f"http://{HOST}:{engine}" for engine in ports)])
        await running.until_ready(lambda: answers_at(port), timeout_s=60)
        await send(port, bodies, clients)
        processes.end(running)
    return engines.prompts


async def send(port: int, bodies: Sequence[dict[str, Any]], clients: int) -> None:
    """Sends the requests with several clients. Raises CannotMeasure unless all are answered."""
    waiting = iter(bodies)
    statuses: Counter[int] = Counter()

    async def client() -> None:
        for body in waiting:
            answer = await post(Target(port, body["model"]), body, timeout_s=60)
            statuses[answer.status] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    if set(statuses) != {200}:
        raise CannotMeasure(f"answers by status: {dict(statuses)}")


def requests(rounds: int) -> list[dict[str, Any]]:
    """Returns the held-out messages in a random order, once for each round."""
    found = []
    for file in sorted((EXAMPLE / "heldout").glob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            messages = row.get("messages") or [{"role": "user", "content": row["text"]}]
            found.append({"model": "auto", "messages": [each for each in messages if each["role"] != "label"]})
    dice = random.Random(7)
    return [body for _ in range(rounds) for body in dice.sample(found, len(found))]


async def run(clients: int, rounds: int) -> dict[str, dict[str, float]]:
    bodies, rows = requests(rounds), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="bench-prefix-") as folder, Processes(Path(folder)) as processes:
        retriever = await start_retriever(processes)
        for name, bound in BOUNDS.items():
            engines = await measure_gateway(processes, bound, retriever, bodies, clients)
            rows[name] = summary(engines.prompts)
        rows["round robin"] = summary(in_turn(engines.prompts))
        try:
            rows["vllm-router, cache-aware"] = summary(await measure_router(processes, engines.bodies, clients))
        except NotInstalled as reason:
            print(reason)
    return rows


def summary(prompts: Prompts) -> dict[str, float]:
    """Returns the hit ratio by blocks per engine, and the share of the requests that the busiest engine got."""
    shares = Counter(engine for engine, _ in prompts)
    ratios = {str(size): hit_ratio(prompts, size) for size in CAPACITIES}
    return ratios | {"largest_share": max(shares.values()) / shares.total()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8, help="requests at once")
    parser.add_argument("--rounds", type=int, default=2, help="how often each message is sent")
    options = parser.parse_args()
    print(describe_machine(), flush=True)
    rows = asyncio.run(run(options.clients, options.rounds))
    for name, row in rows.items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
