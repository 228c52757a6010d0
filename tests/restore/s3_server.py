"""Runs moto's S3 interface in its own process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import urlopen

from tests.ports import free_port


@contextmanager
def running_s3(bucket: str) -> Iterator[dict[str, str]]:
    """Yields the environment variables of clients; the bucket exists."""
    port = free_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    program = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(environment["AWS_ENDPOINT_URL"])
            make = f"import s3fs; s3fs.S3FileSystem().mkdir({bucket!r})"
            subprocess.run([sys.executable, "-c", make], env={**os.environ, **environment}, check=True)
            yield environment
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=5):
                return
        except URLError:
            time.sleep(0.05)
    raise AssertionError("moto's server did not start")
