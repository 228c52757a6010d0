"""The real retriever with the real embedding model, for commands that call it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from pointsman_cli.up.plan import choose_addresses
from pointsman_cli.up.readiness import wait_until_serving
from pointsman_embedding.prepare import prepare

MODEL = Path(__file__).parents[2] / ".pointsman" / "models" / "minilm"


@cache
def _prepare_model() -> None:
    prepare(MODEL)


@contextmanager
def running(data: Path) -> Iterator[str]:
    """Runs a retriever and yields its address."""
    _prepare_model()
    addresses = choose_addresses("127.0.0.1:0", "127.0.0.1:0")
    environment = {
        "POINTSMAN_RETRIEVER_LISTEN": addresses.retriever,
        "POINTSMAN_RETRIEVER_METRICS_LISTEN": addresses.retriever_metrics,
        "POINTSMAN_RETRIEVER_DATA": str(data),
        "POINTSMAN_RETRIEVER_EMBEDDING_MODEL": str(MODEL),
        "POINTSMAN_RETRIEVER_SHUTDOWN_DELAY": "0",
    }
    process = subprocess.Popen([sys.executable, "-m", "pointsman_retriever"], env={**os.environ, **environment})
    try:
        asyncio.run(wait_until_serving(addresses.retriever, "retriever"))
        yield addresses.retriever
    finally:
        process.terminate()
        process.wait(timeout=20)
