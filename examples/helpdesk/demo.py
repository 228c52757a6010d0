"""Run the demo: start all services, send requests along every kind of path over HTTP and gRPC, print the results, stop
everything."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HOME = ROOT / ".pointsman"
LONGEST_START = 420
"""Seconds. The first start also prepares the models."""
KINDS = ("prompt", "rag", "lora", "hybrid")

AUTO = "auto"
LATE = "The train from Penny Hill on 3 May was 50 minutes late. I want my compensation, booking LM-48213."
QUESTIONS = [
    # (API, model, message)
    ("http", AUTO, "left my green umbrella on the 17.40 to Saltby Harbour yesterday, pls tell me u have it!!"),
    ("http", AUTO, LATE),
    ("http", "path:triage_few_shot", LATE),
    ("http", AUTO, "Do I have to reserve a space for my bicycle?"),
    ("grpc", AUTO, "how long do i have to claim money back when a train is late"),
    ("http", AUTO, "Draft a reply to a customer who asks whether her dog needs a ticket."),
    ("http", AUTO, "Write a reply to a customer who asks how long we keep lost property."),
    ("http", AUTO, "What do 2 adults and 1 child of 8 pay together for singles from Larkmoor to Alder Bridge?"),
    ("http", AUTO, "hello there, how are you today?"),
    ("http", AUTO, "Write a SQL query that joins two tables on their ids."),
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One row of the result table."""

    door: str
    model: str
    asked: str
    task: str
    confidence: float
    path: str
    kind: str
    first_token: float
    total: float
    prompt_tokens: int
    completion_tokens: int
    dollars: float
    answer: str


def main() -> int:
    console = Console(width=170)
    with everything_running() as run:
        outcomes = []
        for door, model, text in QUESTIONS:
            console.print(f"[dim]asking over {door}:[/] {text}")
            ask = ask_http if door == "http" else ask_grpc
            outcomes.append(ask(run[door], model, text))
        console.print(table(outcomes))
    kinds = Counter(outcome.kind for outcome in outcomes)
    missing = [kind for kind in KINDS if kinds[kind] < 2]
    unanswered = [outcome.asked for outcome in outcomes if not outcome.answer.strip()]
    if missing or unanswered:
        console.print(
            f"[red]fewer than two answers by: {', '.join(missing) or '-'}; empty answers to: {unanswered or '-'}[/]"
        )
        return 1
    console.print(f"{len(outcomes)} requests, all four kinds of path, {sum(o.dollars for o in outcomes):.7f} dollars.")
    return 0


@contextmanager
def everything_running() -> Iterator[dict[str, str]]:
    """Run `pointsman up` for the duration of the block and yield the HTTP and gRPC addresses."""
    http, grpc_address = free_address(), free_address()
    command = [str(Path(sys.executable).parent / "pointsman"), "up", str(HERE), "--http", http, "--grpc", grpc_address]
    up = subprocess.Popen([*command, "--data-dir", str(HOME)], cwd=ROOT)
    try:
        wait_for(HOME / "run.json", up)
        yield {"http": f"http://{http}", "grpc": grpc_address}
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(timeout=90)


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def wait_for(run_file: Path, up: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + LONGEST_START
    while not is_of(run_file, up.pid):
        if up.poll() is not None:
            raise SystemExit(f"pointsman up ended with exit code {up.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit(f"pointsman up was not ready after {LONGEST_START} s")
        time.sleep(0.5)


def is_of(run_file: Path, pid: int) -> bool:
    """Whether the run file exists and was written by this process."""
    try:
        return bool(json.loads(run_file.read_text())["pid"] == pid)
    except (FileNotFoundError, KeyError, ValueError):
        return False


def ask_http(url: str, model: str, text: str) -> Outcome:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "demo",
    }
    started, first_token, answer, last = time.perf_counter(), 0.0, "", {}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {response.read().decode()}")
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            last = json.loads(line.removeprefix("data: "))
            if "error" in last:
                raise SystemExit(last["error"]["message"])
            piece = "".join(choice["delta"].get("content") or "" for choice in last["choices"])
            if piece and not first_token:
                first_token = time.perf_counter() - started
            answer += piece
    headers = response.headers
    return Outcome(
        door="http",
        model=model,
        asked=text,
        task=headers["x-pointsman-task"],
        confidence=float(headers["x-pointsman-confidence"]),
        path=headers["x-pointsman-path"],
        kind=headers["x-pointsman-kind"],
        first_token=first_token,
        total=time.perf_counter() - started,
        prompt_tokens=last["usage"]["prompt_tokens"],
        completion_tokens=last["usage"]["completion_tokens"],
        dollars=last["pointsman"]["cost_usd"],
        answer=answer,
    )


def ask_grpc(address: str, model: str, text: str) -> Outcome:
    request = gateway_pb2.GenerateRequest(model=model, messages=[gateway_pb2.Message(role="user", content=text)])
    started, first_token, answer = time.perf_counter(), 0.0, ""
    with grpc.insecure_channel(address) as channel:
        for response in gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request, timeout=120):
            match response.WhichOneof("event"):
                case "started":
                    decision = response.started.decision
                case "delta":
                    if response.delta.content and not first_token:
                        first_token = time.perf_counter() - started
                    answer += response.delta.content
                case "finished":
                    receipt = response.finished.receipt
    return Outcome(
        door="grpc",
        model=model,
        asked=text,
        task=decision.task,
        confidence=decision.confidence,
        path=receipt.path,
        kind=decision.kind,
        first_token=first_token,
        total=time.perf_counter() - started,
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        dollars=receipt.cost_usd,
        answer=answer,
    )


def table(outcomes: list[Outcome]) -> Table:
    shown = Table(show_lines=True)
    for heading, ratio in [("request", 4), ("task", 0), ("conf.", 0), ("path", 0), ("kind", 0), ("TTFT s", 0)]:
        shown.add_column(heading, ratio=ratio or None)
    for heading, ratio in [("total s", 0), ("tokens", 0), ("dollars", 0), ("answer", 6)]:
        shown.add_column(heading, ratio=ratio or None)
    for o in outcomes:
        shown.add_row(
            o.asked if o.door == "http" else f"(gRPC) {o.asked}",
            o.task if o.model == AUTO else "(path named)",
            f"{o.confidence:.2f}" if o.model == AUTO else "",
            o.path,
            o.kind,
            f"{o.first_token:.2f}",
            f"{o.total:.2f}",
            f"{o.prompt_tokens}+{o.completion_tokens}",
            f"{o.dollars:.7f}",
            o.answer.strip(),
        )
    return shown


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.exit(main())
