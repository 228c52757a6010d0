"""Runs the lora-server and its engine, until told to stop."""

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pointsman_servicekit import logs
from pointsman_servicekit.grpc_server import serving
from pointsman_servicekit.metrics import serving_metrics
from pointsman_servicekit.process import delay_shutdown, wait_for_stop_signal
from pointsman_servicekit.tls import server_tls
from pointsman_servicekit.tracing.exporting import exporting_spans, tracing_server_interceptors

from pointsman_lora_server import wiring
from pointsman_lora_server.settings import Settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger(__name__)


def main() -> int:
    try:
        settings = Settings()
        logs.configure_logging("lora-server", settings.log_level, settings.log_form)
        with exporting_spans("lora-server", os.environ) as spans:
            asyncio.run(run(settings, spans))
    except (ValueError, OSError) as error:
        print(f"pointsman_lora_server: {error}", file=sys.stderr)
        return 1
    return 0


async def run(settings: Settings, spans: "Spans | None" = None) -> None:
    """Serves until SIGINT or SIGTERM; then gateways are told, the watches end, and the engine drains."""
    command = wiring.command_for(settings, os.environ)
    tls = server_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    async with wiring.building(settings, command) as house:
        with serving_metrics(settings.metrics_listen, house.registry, house.is_ready) as metrics_port:
            around = [*tracing_server_interceptors(spans), *house.interceptors]
            async with serving(settings.listen, house.services, house.add_to, interceptors=around, tls=tls) as server:
                log.info(
                    "gRPC on %s, metrics on port %d, engine on %s", server.address, metrics_port, settings.public_url
                )
                told_by = await wait_for_stop_signal()
                await house.take_leave()
                await server.start_shutdown()
                await delay_shutdown(told_by, settings.drain_notice)
                house.end_watches()


if __name__ == "__main__":
    sys.exit(main())
