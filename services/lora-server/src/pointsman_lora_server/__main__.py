"""Runs the lora-server and its inference engine until SIGINT or SIGTERM."""

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

from pointsman_lora_server import bootstrap, engine_bootstrap
from pointsman_lora_server.settings import Settings, read_settings

if TYPE_CHECKING:
    from pointsman_servicekit.tracing.spans import Spans

log = logging.getLogger(__name__)


def main() -> int:
    try:
        settings = read_settings()
        logs.configure_logging("lora-server", settings.log_level, settings.log_format)
        with exporting_spans("lora-server", os.environ) as spans:
            asyncio.run(run(settings, spans))
    except (ValueError, OSError) as error:
        print(f"pointsman_lora_server: {error}", file=sys.stderr)
        return 1
    return 0


async def run(settings: Settings, spans: "Spans | None" = None) -> None:
    """Serves until SIGINT or SIGTERM, then shuts down in these steps.

    First, other engines get time to load the adapter versions that are placed on this one. Then the engine is reported
    as DOWN to the gateways, and requests in progress may finish. Last, the engine is stopped, if this process started
    it. Raises ValueError or OSError if the settings cannot be used.
    """
    engine_bootstrap.require_engine(settings)
    settings = engine_bootstrap.with_held(engine_bootstrap.with_context_window(settings))
    command = engine_bootstrap.command_for(settings, os.environ)
    tls = server_tls(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    gate = bootstrap.token_gate(settings)
    async with bootstrap.build_app(settings, command) as app:
        with serving_metrics(settings.metrics_listen, app.metrics_registry, app.is_ready) as metrics_port:
            interceptors = [*tracing_server_interceptors(spans), *app.interceptors]
            async with serving(
                settings.listen, app.services, app.add_to, interceptors=interceptors, tls=tls, gate=gate
            ) as server:
                log.info(
                    "gRPC on %s, metrics on port %d, engine on %s", server.address, metrics_port, settings.public_url
                )
                received = await wait_for_stop_signal()
                await app.start_shutdown()
                await server.start_shutdown()
                await delay_shutdown(received, settings.shutdown_delay)
                app.end_watches()


if __name__ == "__main__":
    sys.exit(main())
