import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pointsman_cli.processes import run_to_end

Until = Callable[..., Any]


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-u", "-c", code]


async def test_output_lines_are_yielded_one_by_one_and_the_last_error_is_kept() -> None:
    out: list[str] = []
    err: list[str] = []
    code = "import sys; print('one'); print('two'); print('careful', file=sys.stderr); sys.exit('error: no disk')"

    ended = await run_to_end(python(code), {}, out.append, err.append)

    assert (out, err) == (["one", "two"], ["careful"])
    assert (ended.code, ended.reason) == (1, "no disk")


async def test_a_silent_failure_is_reported_with_its_exit_code() -> None:
    ended = await run_to_end(python("import os; os._exit(3)"), {}, print)

    assert ended.reason == "exit code 3"


async def test_the_environment_extends_that_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_OURS", "1")
    out: list[str] = []
    code = "import os; print(os.environ['POINTSMAN_OURS'], os.environ['POINTSMAN_ADDED'])"

    await run_to_end(python(code), {"POINTSMAN_ADDED": "2"}, out.append)

    assert out == ["1 2"]


async def test_cancellation_sends_sigint_and_waits_for_cleanup(tmp_path: Path, until: Until) -> None:
    out: list[str] = []
    cleaned = tmp_path / "cleaned"
    code = (
        "import signal, time; from pathlib import Path\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs have it ignored\n"
        "try:\n    print('up')\n    while True: time.sleep(0.02)\n"
        f"except KeyboardInterrupt:\n    Path({str(cleaned)!r}).touch(); print('cleaned up')\n"
    )
    running = asyncio.create_task(run_to_end(python(code), {}, out.append))
    await until(lambda: out == ["up"], "it is up")

    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert cleaned.exists()
    assert out == ["up", "cleaned up"]
