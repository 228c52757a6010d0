"""Log lines as another program reads them from the process's standard error."""

import json
import re
import subprocess
import sys
from functools import partial

import pytest
from pointsman_servicekit.logs import mask_secrets

from tests.cpu_time import cpu_seconds

PROGRAM = """
import logging
from pointsman_servicekit import logs
logs.configure_logging("retriever", "INFO")
log = logging.getLogger("store")
log.info("before")
logs.request_id.set("abc-123")
log.info("opened %s", "handbook")
log.debug("hidden")
logging.getLogger("httpx").info("hidden")
logging.getLogger("httpx2").info("hidden")
"""

NAMING = """
import logging
from pointsman_servicekit import logs
logs.configure_logging("gateway", "INFO", "json")
log = logging.getLogger("server")
log.info("before")
logs.decision_id.set("d-1")
log.info("decided")
logs.current_trace.set(logs.TraceIds("a" * 32, "b" * 16, sampled=False))
log.info("traced")
"""

FAILING = """
import asyncio, gc, logging, sys
from pointsman_servicekit import logs
from pointsman_servicekit.errors import Unavailable
logs.configure_logging("gateway", sys.argv[1], sys.argv[2])
log = logging.getLogger("server")
PROMPT = "my mother's maiden name"

def fail():
    try:
        {}[PROMPT]
    except KeyError as error:
        raise ValueError(f"cannot read {PROMPT!r}") from error

try:
    fail()
except ValueError:
    log.exception("internal error")
try:
    raise Unavailable("engine 'a' is away", code="engine_unavailable")
except Unavailable:
    log.exception("told")
log.warning("left alone for %d s: %s", 5, Unavailable(PROMPT, code="engine_error"))
log.warning("not read: %s", ValueError(PROMPT))
log.warning("not found: %s", FileNotFoundError(2, "No such file", "ca.pem"))

async def forgotten():
    raise ValueError(PROMPT)

async def main():
    asyncio.ensure_future(forgotten())
    await asyncio.sleep(0)
    gc.collect()

asyncio.run(main())
"""


def run(program: str, *arguments: str) -> str:
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    return ran.stderr


def test_a_line_names_service_request_and_module() -> None:
    before, opened = run(PROGRAM).splitlines()
    assert before.endswith(" INFO    retriever [-] store: before")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d [\d:,]+ INFO    retriever \[abc-123\] store: opened handbook", opened)


def test_a_json_line_has_the_ids_of_decision_and_span() -> None:
    before, decided, traced = map(json.loads, run(NAMING).splitlines())
    assert before.keys() == {"time", "level", "service", "request_id", "module", "message"}
    assert decided.keys() - before.keys() == {"decision_id"}
    assert (decided["decision_id"], traced["decision_id"]) == ("d-1", "d-1")
    assert (traced["trace_id"], traced["span_id"]) == ("a" * 32, "b" * 16)


def test_each_json_line_is_an_object() -> None:
    before, opened = map(json.loads, run(PROGRAM.replace('"INFO"', '"INFO", "json"')).splitlines())
    assert before["request_id"] == "-"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", opened.pop("time"))
    assert opened == {
        "level": "INFO",
        "service": "retriever",
        "request_id": "abc-123",
        "module": "store",
        "message": "opened handbook",
    }


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exceptions_text_is_withheld_but_not_its_traceback(form: str) -> None:
    output = run(FAILING, "INFO", form)
    assert "maiden" not in output
    for kept in (
        "in fail",
        "KeyError",
        "ValueError",
        "internal error",
        "never retrieved",
        "Unavailable: engine_unavailable",
        "left alone for 5 s: ",
        "engine_error",
        "'ca.pem'",
    ):
        assert kept in output, kept


def test_at_debug_level_the_exceptions_text_is_shown() -> None:
    assert "ValueError: cannot read" in run(FAILING, "DEBUG", "text")


def test_logged_text_cannot_start_a_new_line() -> None:
    program = PROGRAM.replace('"handbook"', r'"x\n2026-01-01 ERROR forged\x1b[2J\r\u009b"')
    assert len(run(program).splitlines()) == 2
    assert r"opened x\n2026-01-01 ERROR forged\x1b[2J\r\x9b" in run(program)


def test_secrets_are_masked_in_all_loggers() -> None:
    program = PROGRAM.replace('"handbook"', '"key pm_0123456789abcdef at redis://:hunter22@db:6379/0"')
    output = run(program)
    assert "opened key [secret] at redis://[secret]@db:6379/0" in output


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("pm_live_0123456789 and sk-proj-abcdefgh12", "[secret] and [secret]"),
        ("authorization: Bearer abc.def-ghi", "authorization: Bearer [secret]"),
        ("Basic dXNlcjpwYXNzd29yZA==", "Basic [secret]"),
        ("redis://user:pa$$@host:1/0", "redis://[secret]@host:1/0"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "[secret]"),
        ("-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----", "[secret]"),
        ("http://127.0.0.1:8080/v1 at 10:20:30", "http://127.0.0.1:8080/v1 at 10:20:30"),
        ("the task-force of pm_x, ask-again, sk-short", "the task-force of pm_x, ask-again, sk-short"),
        ("a bearer of bad news", "a bearer of bad news"),
    ],
)
def test_text_that_looks_like_a_secret_is_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


@pytest.mark.parametrize("piece", ["sk-", "eyJ", "://a:", "Bearer ", "-----BEGIN ", "pm_a", "eyJaaaaaaaa."])
def test_masking_takes_linear_time(piece: str) -> None:
    short, long = (cpu_seconds(partial(mask_secrets, piece * times)) for times in (4_000, 32_000))

    assert long < 24 * short + 0.05  # 8 times as much text; quadratic time would be 64 times as long
