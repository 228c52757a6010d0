"""The command `pointsman reconcile` compares receipts in a real Valkey with an export: its table, and its exit code."""

import json
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.up.plan import server_binary
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from tests.ports import free_port

Cli = Callable[..., Any]

DECISIONS = "{pointsman}:decisions"
DAY = int(datetime(2026, 11, 2, tzinfo=UTC).timestamp())
CONFIG = """\
prices_as_of: 2026-11-01
models:
  mini: {upstream: gpt-9, context_window: 8192, usd_per_million_tokens: {prompt: 2, cached: 1, completion: 4}}
  own: {context_window: 8192, usd_per_million_tokens: {prompt: 0, cached: 0, completion: 0}}
engines:
  first: {model: mini, provider: openai, api_key_env: KEY}
  local: {model: own, url: "http://localhost:8000", usd_per_hour: 2}
paths: {first: {model: mini}}
default_path: first
tasks: {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEY", "sk")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "pointsman.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, Redis]]:
    """Yields a Redis URL and a client of it."""
    port = free_port()
    program = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL) as server:
        url = f"redis://127.0.0.1:{port}/0"
        with Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()
            yield url, client
        server.kill()


def receipt(seconds: float, prompt: int = 100, engine: str = "first", completion: int = 10) -> str:
    """Returns an entry of the request log whose request ended `seconds` after the start of the day."""
    return json.dumps(
        {
            "v": 1, "unix_ms": (DAY + seconds) * 1000, "path": "first", "engine": engine, "model": "mini",
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": 0},
            "cost_parts_usd": {"prompt": prompt * 2e-6, "cached": 0.0, "completion": completion * 4e-6},
            "seconds": {"total": 2.0, "prefill": 0.5, "generation": 1.5}, "cached": "",
        }
    )  # fmt: skip


def log(client: Redis, *entries: str) -> None:
    for unix_ms, entry in sorted((int(json.loads(entry)["unix_ms"]), entry) for entry in entries):
        client.xadd(DECISIONS, {"decision": "d", "entry": entry}, id=f"{unix_ms}-*")


def export(folder: Path, **changed: Any) -> Path:
    result = {
        "object": "organization.usage.completions.result", "model": "gpt-9-2026-08-01", "input_tokens": 300,
        "output_tokens": 30, "num_model_requests": 3, **changed,
    }  # fmt: skip
    bucket = {"object": "bucket", "start_time": DAY, "end_time": DAY + 86400, "results": [result]}
    file = folder / "usage.json"
    file.write_text(json.dumps({"object": "page", "data": [bucket], "has_more": False}))
    return file


def test_an_export_that_agrees_ends_with_code_0(cli: Cli, folder: Path, redis: tuple[str, Redis]) -> None:
    url, client = redis
    log(client, receipt(-10), receipt(10), receipt(20), receipt(30), receipt(86410), receipt(40, engine="local"))
    outcome = cli("reconcile", export(folder), "--config", folder / "config", "--redis", url, "--tolerance", 0)
    assert outcome.code == 0, outcome.err
    for told in ("OpenAI's usage, 1 days: no difference", "tokens: 330 in the export, 330 in the receipts"):
        assert told in outcome.out
    assert "Engines of your own" in outcome.out


def test_a_difference_is_shown_with_its_cause_and_ends_with_code_1(
    cli: Cli, folder: Path, redis: tuple[str, Redis]
) -> None:
    url, client = redis
    log(client, receipt(10), receipt(20))
    arguments = ("reconcile", export(folder), "--config", folder / "config", "--redis", url)
    outcome = cli(*arguments)
    assert outcome.code == 1
    for told in ("gpt-9", "2026-11-02", "prompt", "300", "200", "+100", "missing requests: 1 of 3"):
        assert told in outcome.out
    assert "differ by 33.3 %, more than 1 %; first cause: missing requests: 1 of 3 are in no receipt" in outcome.err
    assert cli(*arguments, "--tolerance", 40).code == 0
    facts = json.loads(cli(*arguments, "--json", "--tolerance", 40).out)["exports"][0]
    assert facts["first_cause"] == "missing requests: 1 of 3 are in no receipt"
    assert {(one["kind"], one["exported"], one["received"]) for one in facts["differences"]} == {
        ("prompt", 300.0, 200.0), ("completion", 30.0, 20.0), ("requests", 3.0, 2.0),
    }  # fmt: skip


def test_models_and_keys_of_something_else_can_be_left_out(cli: Cli, folder: Path, redis: tuple[str, Redis]) -> None:
    url, client = redis
    log(client, receipt(10), receipt(20), receipt(30))
    other = export(folder, model="gpt-of-others", api_key_id="key_x")
    arguments = ("reconcile", other, "--config", folder / "config", "--redis", url)
    shown = cli(*arguments)
    assert shown.code == 1
    assert "not in the configuration: 'gpt-of-others'; --model NAME=MODEL if a model has another name" in shown.out
    assert cli(*arguments, "--model", "gpt-of-others=mini").code == 0
    assert cli(*arguments, "--model", "gpt-of-others=").code == 1
    assert cli(*arguments, "--model", "gpt-of-others=mini", "--key", "key_x=first", "--tolerance", 0).code == 0


def test_days_that_the_log_has_lost_are_left_out_and_said(cli: Cli, folder: Path, redis: tuple[str, Redis]) -> None:
    url, client = redis
    log(client, receipt(10), receipt(20), receipt(30))
    client.xtrim(DECISIONS, maxlen=2, approximate=False)
    outcome = cli("reconcile", export(folder), "--config", folder / "config", "--redis", url)
    assert outcome.code == 1
    assert "no day of it can be compared; the request log begins on 2026-11-02, and earlier entries" in outcome.err


def test_what_was_paid_for_an_engine_is_compared_with_its_hours(
    cli: Cli, folder: Path, redis: tuple[str, Redis]
) -> None:
    url, client = redis
    log(client, receipt(10), receipt(20), receipt(30), receipt(3600, engine="local", prompt=500_000))
    arguments = ("reconcile", export(folder), "--config", folder / "config", "--redis", url)
    assert cli(*arguments, "--paid", "local=48").code == 0
    outcome = cli(*arguments, "--paid", "local=96", "--json")
    assert outcome.code == 1
    assert "engine 'local' was paid for 48.0 h at this price" in outcome.err
    (engine,) = json.loads(outcome.out)["engines"]
    assert (engine["hours"], engine["tokens"], engine["utilization"]) == (24.0, 500_010, pytest.approx(2 / 86400))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--key", "key_x=frist"], "unknown engine 'frist'; did you mean 'first'?"),
        (["--engine", "third"], "unknown engine 'third'; known: first, local"),
        (["--paid", "first=5"], "engine 'first' has no usd_per_hour"),
        (["--paid", "local=much"], "the sum paid for 'local' is 'much'; write dollars"),
        (["--model", "gpt"], "'gpt' is not of the form NAME=VALUE"),
        (["--time-zone", "Mars/Olympus"], "'Mars/Olympus' is not a time zone"),
        (["--since", "soon"], "'soon' is not an age"),
    ],
)
def test_a_wrong_option_is_named(
    cli: Cli, folder: Path, redis: tuple[str, Redis], options: list[str], message: str
) -> None:
    outcome = cli("reconcile", export(folder), "--config", folder / "config", "--redis", redis[0], *options)
    assert outcome.code == 1
    assert message in outcome.err


def test_a_wrong_export_or_a_missing_log_is_named(cli: Cli, folder: Path, redis: tuple[str, Redis]) -> None:
    config = ("--config", folder / "config")
    assert "there is no file none.csv" in cli("reconcile", "none.csv", *config, "--redis", redis[0]).err
    (folder / "x.csv").write_text("a,b\n1,2\n")
    outcome = cli("reconcile", folder / "x.csv", *config, "--redis", redis[0])
    assert "has the columns a, b, which are of no known export" in outcome.err
    assert "there is no request log" in cli("reconcile", export(folder), *config).err
