"""Runs the retriever: `python -m pointsman_retriever`."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pointsman_embedding import ModelMissing
from pointsman_servicekit import logs
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.lifetimes import until_told_to_stop
from pointsman_servicekit.tracing.exporting import OtelSettingsError, exporting

from pointsman_retriever import wiring
from pointsman_retriever.settings import Settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger("pointsman_retriever")


async def run(settings: Settings, spans: "Spans | None" = None) -> None:
    async with wiring.running(settings, wiring.load_model(settings), spans):
        told = await until_told_to_stop()
        log.info("stopping, told by %s", told.name)


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
