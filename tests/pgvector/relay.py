"""A relay between a client and a server, which can let the network fall silent or cut its connections."""

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import closing, suppress

PART = 64 * 1024
WAIT_SECONDS = 0.02


class Relay:
    """Passes bytes between clients of `port` and a server at `target`, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.is_silent = False
        """While true, nothing is passed on, and nothing is closed."""
        self.cut_before: Callable[[bytes], bool] = lambda sent: False
        """Decides by the bytes that a client has sent whether all connections are cut, and these bytes lost."""
        self.cut_after: Callable[[bytes], bool] = lambda sent: False
        """Decides by the bytes that a client has sent whether all connections are cut after the server has them."""
        self.hold_back: Callable[[bytes], bool] = lambda sent: False
        """Decides by the bytes that a client has sent whether its connection is cut, and the server gets them by
        `deliver`.
        """
        self._held: list[tuple[socket.socket, bytes]] = []
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._is_closed = True
        self._thread.join()
        self._cut()
        for server, _ in self._held:
            server.close()
        self._listener.close()

    def deliver(self) -> None:
        """Sends the server what was held back, and waits for its answer."""
        while self._held:
            server, data = self._held.pop()
            with closing(server):
                server.sendall(data)
                server.recv(PART)

    def _run(self) -> None:
        while not self._is_closed:
            if self.is_silent:
                threading.Event().wait(WAIT_SECONDS)
                continue
            for key, _ in self._selector.select(WAIT_SECONDS):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj in self._others and not self.is_silent:
                    self._pass_on(key.fileobj)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            self._others[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, source: socket.socket) -> None:
        data = b""
        with suppress(OSError):
            data = source.recv(PART)
        if not data:
            self._forget(source)
            return
        is_sent = source in self._clients
        if is_sent and self.cut_before(data):
            self._cut()
            return
        if is_sent and self.hold_back(data):
            self._hold(source, data)
            return
        with suppress(OSError):
            self._others[source].sendall(data)
        if is_sent and self.cut_after(data):
            self._cut(keep_server_for=0.2)

    def _hold(self, client: socket.socket, data: bytes) -> None:
        server = self._others[client].dup()
        self._forget(client)
        self._held.append((server, data))

    def _forget(self, source: socket.socket) -> None:
        other = self._others[source]
        for one in (source, other):
            self._selector.unregister(one)
            del self._others[one]
            self._clients.discard(one)
            one.close()

    def _cut(self, keep_server_for: float = 0.0) -> None:
        """Closes all connections; the server gets a moment to finish what it has received."""
        threading.Event().wait(keep_server_for)
        while self._others:
            self._forget(next(iter(self._others)))
