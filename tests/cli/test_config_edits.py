"""Each change of the configuration is reported as one line in the terminal of `pointsman up`."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pointsman_cli.up.config_edits import edit_of, report_edits
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.pipeline.reload import ConfigReloader
from pointsman_servicekit.logs import make_handler

Until = Callable[..., Any]


class Metrics:
    def count_reload(self, outcome: str, revision: str) -> None:
        """Does nothing; the test counts no reloads."""


@pytest.mark.parametrize("form", ["text", "json"])
async def test_a_rejected_and_an_accepted_edit_are_a_line_each(
    tmp_path: Path, until: Until, form: Literal["text", "json"]
) -> None:
    log, config, lines = tmp_path / "gateway.log", tmp_path / "config", list[str]()
    results: list[Any] = [ConfigError("paths.yaml is not YAML:\n line 3"), SimpleNamespace(revision="4567")]

    async def build() -> Any:
        if isinstance(results[0], Exception):
            raise results[0]
        return results[0]

    config.mkdir()
    first: Any = SimpleNamespace(revision="0123")
    reloader = ConfigReloader(first, [config], build, Metrics())
    with log.open("w") as file:
        handler = make_handler(file, "gateway", form=form)
        logger = logging.getLogger("pointsman_gateway.pipeline.reload")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        reporting = asyncio.create_task(report_edits(log, lines.append, 0.01))
        try:
            await asyncio.sleep(0)  # it starts at the end of the log
            await reloader.reload()
            await reloader.reload()  # as in a second gateway process
            results.pop(0)
            await reloader.reload()
            await until(lambda: len(lines) >= 2, "both are reported")
        finally:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)
            reporting.cancel()

    assert lines == [
        "the changed configuration is rejected, 0123 stays active: paths.yaml is not YAML: line 3",
        "configuration 4567 is active",
    ]


@pytest.mark.parametrize("line", ["", "HTTP on 127.0.0.1:1", '{"message": 1}', '{"level": "INFO"}', "{no json"])
def test_other_lines_of_the_log_are_no_edits(line: str) -> None:
    assert edit_of(line) == ""
