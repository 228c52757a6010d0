"""Runs the retriever: `python -m pointsman_retriever`."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pointsman_embedding import ModelMissing
from pointsman_servicekit import logs
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.lifetimes import give_notice, until_told_to_stop
from pointsman_servicekit.tracing.exporting import OtelSettingsError, exporting

from pointsman_retriever import wiring
from pointsman_retriever.settings import Settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger("pointsman_retriever")


async def run(settings: Settings, spans: "Spans | None" = None) -> None:
    """Serves until SIGINT or SIGTERM; then what is asked already is answered, and what is written is on disk."""
    async with wiring.run_service(settings, wiring.load_model(settings), spans) as running:
        told_by = await until_told_to_stop()
        log.info("stopping, told by %s", told_by.name)
        await running.take_leave()
        await give_notice(told_by, settings.drain_notice)


# Seconds. A search gives the interpreter away many times (FAISS, numpy, SQLite), and waits so long for it each time
# that another thread is writing; the usual 5 ms are as long as the whole search.
SWITCH_INTERVAL = 0.0001


def main() -> int:
    settings = Settings()
    sys.setswitchinterval(SWITCH_INTERVAL)
    logs.set_up("retriever", settings.log_level, settings.log_form)
    try:
        with exporting("retriever", os.environ) as spans:
            asyncio.run(run(settings, spans))
    except (PointsmanError, ModelMissing, OtelSettingsError, OSError) as error:
        log.error("cannot run: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
