"""Run the demo: start all services, send requests along every kind of path over HTTP and gRPC, check and print the
answers, stop everything."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import yaml
from pointsman.v1 import gateway_pb2, gateway_pb2_grpc
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HOME = ROOT / ".pointsman"
MAX_START_SECONDS = 420
"""Seconds. The first start also prepares the models."""
KINDS = ("prompt", "rag", "lora", "hybrid")
MIN_OF_KIND = 2
"""The demo fails if fewer answers come along paths of a kind."""
MIN_RIGHT = 8
"""The demo fails if fewer answers are right, of eleven; two of the questions are there to be answered wrong."""

AUTO = "auto"
WIDTH = 100


@dataclass(frozen=True)
class Question:
    """A request of the demo, and what its answer must be by the handbook and by the rules of DATA.md."""

    text: str
    task: str
    api: str = "http"
    facts: Sequence[Sequence[str]] = ()
    """Groups of alternative texts; the answer must contain one text of each group."""
    never: Sequence[str] = ()
    """Texts that must not be in the answer."""
    output: Mapping[str, object] | None = None
    """The JSON object that the answer must be."""
    model: str = AUTO
    lesson: str = ""
    """What a wrong answer shows."""


QUESTIONS = [Question(**question) for question in yaml.safe_load((HERE / "demo_questions.yaml").read_text("utf-8"))]


@dataclass(frozen=True)
class Outcome:
    """The gateway's decision and answer to one question, with times, tokens and cost."""

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
    console = Console(width=WIDTH, highlight=False)
    outcomes: list[Outcome] = []
    with everything_running() as run:
        for number, question in enumerate(QUESTIONS, 1):
            ask = ask_http if question.api == "http" else ask_grpc
            outcomes.append(ask(run[question.api], question.model, question.text))
            show(console, number, question, outcomes[-1])
    right = count_right(outcomes)
    console.print(
        f"\n{len(outcomes)} requests along all four kinds of path, {sum(o.dollars for o in outcomes):.7f} dollars; "
        f"{right} answers right, {len(outcomes) - right} wrong. The base model has 135 million parameters, and most "
        "questions were chosen so that it can answer them. docs/experiment.md compares the paths on all questions."
    )
    found = shortcomings(outcomes)
    for line in found:
        console.print(f"[red]{escape(line)}[/]")
    return 1 if found else 0


def shortcomings(outcomes: Sequence[Outcome]) -> list[str]:
    """Returns why the demo failed, given the outcomes of all `QUESTIONS`; empty if it did not."""
    found = []
    kinds = Counter(outcome.kind for outcome in outcomes)
    if missing := [kind for kind in KINDS if kinds[kind] < MIN_OF_KIND]:
        found.append(f"fewer than {MIN_OF_KIND} answers by: {', '.join(missing)}")
    if unanswered := [question.text for question, outcome in judged(outcomes) if not outcome.answer.strip()]:
        found.append(f"empty answers to: {', '.join(unanswered)}")
    right = count_right(outcomes)
    if right < MIN_RIGHT:
        found.append(f"{right} of {len(outcomes)} answers are right, fewer than {MIN_RIGHT}")
    return found


def count_right(outcomes: Sequence[Outcome]) -> int:
    return sum(not mistakes(question, outcome) for question, outcome in judged(outcomes))


def judged(outcomes: Sequence[Outcome]) -> Iterator[tuple[Question, Outcome]]:
    """Returns each of `QUESTIONS` with its outcome."""
    return zip(QUESTIONS, outcomes, strict=True)


def mistakes(question: Question, outcome: Outcome) -> list[str]:
    """Returns what is wrong with the chosen task or the answer; empty if both are right."""
    found = []
    if question.model == AUTO and outcome.task != question.task:
        found.append(f"the task is {question.task}")
    if question.output is not None and parsed(outcome.answer) != question.output:
        found.append(f"expected {json.dumps(question.output)}")
    found += [f"lacks '{group[0]}'" for group in question.facts if not any(fact in outcome.answer for fact in group)]
    found += [f"should not say '{text.strip()}'" for text in question.never if text in outcome.answer]
    return found


def parsed(answer: str) -> object:
    try:
        return json.loads(answer)
    except ValueError:
        return None


def show(console: Console, number: int, question: Question, outcome: Outcome) -> None:
    """Prints one question with its decision, its answer and the verdict."""
    wrong = mistakes(question, outcome)
    verdict = "[red]wrong[/]" if wrong else "[green]right[/]"
    task = f"{outcome.task} ({outcome.confidence:.2f})" if question.model == AUTO else "path named in the request"
    over = "" if question.api == "http" else " (gRPC)"
    console.print(f"\n{number:2}. [bold]{escape(question.text)}[/]{over}")
    for line in (
        f"{task} -> {outcome.path} ({outcome.kind})",
        f"TTFT {outcome.first_token:.2f} s, total {outcome.total:.2f} s, "
        f"{outcome.prompt_tokens}+{outcome.completion_tokens} tokens, {outcome.dollars:.7f} dollars",
        escape(outcome.answer.strip()),
        f"{verdict}{escape(': ' + '; '.join(wrong)) if wrong else ''}",
    ):
        console.print(Padding(line, (0, 0, 0, 4)))
    if wrong and question.lesson:
        console.print(Padding(f"[italic]{escape(question.lesson)}[/]", (0, 0, 0, 4)))


@contextmanager
def everything_running() -> Iterator[dict[str, str]]:
    """Runs `pointsman up` for the duration of the block and yields the HTTP and gRPC addresses."""
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
    deadline = time.monotonic() + MAX_START_SECONDS
    while not is_of(run_file, up.pid):
        if up.poll() is not None:
            raise SystemExit(f"pointsman up ended with exit code {up.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit(f"pointsman up was not ready after {MAX_START_SECONDS} s")
        time.sleep(0.5)


def is_of(run_file: Path, pid: int) -> bool:
    """Returns whether the run file exists and was written by the process `pid`."""
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


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    sys.exit(main())
