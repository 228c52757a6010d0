"""Runs the retriever: `python -m pointsman_retriever`."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pointsman_embedding import ModelMissing
from pointsman_servicekit import logs
from pointsman_servicekit.errors import PointsmanError
from pointsman_servicekit.process import delay_shutdown, wait_for_stop_signal
from pointsman_servicekit.setting_names import UnknownSetting
from pointsman_servicekit.setting_values import WrongSetting
from pointsman_servicekit.tracing.exporting import OtelSettingsError, exporting_spans

from pointsman_retriever import bootstrap
from pointsman_retriever.settings import Settings, read_settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger("pointsman_retriever")

# Seconds. A search releases the GIL many times (FAISS, NumPy, SQLite) and waits up to this long to get it back while
# another thread computes; the default of 5 ms is as long as a whole search.
SWITCH_INTERVAL_SECONDS = 0.0001


async def run(settings: Settings, spans: "Spans | None" = None) -> None:
    """Serves the retriever until the process gets SIGINT or SIGTERM.

    `spans` enables tracing. After SIGTERM, new calls are still answered for `settings.shutdown_delay` seconds. Then
    calls in progress have `settings.shutdown_timeout` seconds to finish. All acknowledged writes are on disk when this
    returns. Raises a PointsmanError, ModelMissing or OSError, with a message for the user, if the service cannot be
    started.
    """
    async with bootstrap.run_service(settings, bootstrap.load_model(settings), spans) as running:
        received = await wait_for_stop_signal()
        log.info("stopping after %s", received.name)
        await running.announce_shutdown()
        await delay_shutdown(received, settings.shutdown_delay)


def main() -> int:
    try:
        settings = read_settings()
    except (UnknownSetting, WrongSetting) as error:
        print(f"pointsman_retriever: {error}", file=sys.stderr)
        return 1
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    logs.configure_logging("retriever", settings.log_level, settings.log_format)
    try:
        with exporting_spans("retriever", os.environ) as spans:
            asyncio.run(run(settings, spans))
    except (PointsmanError, ModelMissing, OtelSettingsError, OSError) as error:
        log.error("cannot run: %s", str(error))  # as a text, because logs withhold what errors say
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
