"""A database that is far away: a TCP proxy, in a process of its own, that delays each direction by half the distance.

Threads and blocking sockets, because an event loop's timers are only good to a millisecond. What is sent one after the
other is delayed side by side, as on a wire. It counts round trips: changes from the server's turn to the client's.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from local.config import PROJECT_DIR

_CHUNK = 1 << 20


@contextmanager
def far(url: str, *, milliseconds: float) -> Iterator[tuple[str, Callable[[], int]]]:
    """The same database's URL through a proxy, and a function that says how many round trips there were."""
    parts = urlsplit(url)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.far", str(parts.port), str(milliseconds / 1000)],
        cwd=PROJECT_DIR,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asking, answers = process.stdin, process.stdout
    assert asking is not None
    assert answers is not None

    def trips() -> int:
        asking.write("\n")
        asking.flush()
        return int(answers.readline())

    try:
        yield url.replace(f":{parts.port}/", f":{int(answers.readline())}/"), trips
    finally:
        asking.close()  # it ends when its input does, also if we are killed
        process.wait()
        answers.close()


class Wire:
    """One connection. Both directions are pumped until either side closes."""

    def __init__(self, client: socket.socket, server: socket.socket, *, seconds: float) -> None:
        self.trips = 0
        self._seconds = seconds
        self._clients_turn = True
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pump(client, server, is_client=True)
        self._pump(server, client, is_client=False)

    def _pump(self, source: socket.socket, sink: socket.socket, *, is_client: bool) -> None:
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        receiving = {"is_client": is_client}
        threading.Thread(target=self._receive, args=(under_way, source), kwargs=receiving, daemon=True).start()
        threading.Thread(target=self._deliver, args=(under_way, sink), daemon=True).start()

    def _receive(
        self, under_way: queue.SimpleQueue[tuple[float, bytes]], source: socket.socket, *, is_client: bool
    ) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(_CHUNK)
            except OSError:
                data = b""
            under_way.put((time.perf_counter() + self._seconds, data))
            if data and is_client and self._clients_turn:
                self.trips += 1
            self._clients_turn = not is_client

    @staticmethod
    def _deliver(under_way: queue.SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
        while True:
            due, data = under_way.get()
            if (rest := due - time.perf_counter()) > 0:
                time.sleep(rest)
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return


def main(port: int, seconds: float) -> None:
    """Serve connections to the server at `port`; a line of input is answered by the round trips so far."""
    wires: list[Wire] = []
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            wires.append(Wire(client, socket.create_connection(("127.0.0.1", port)), seconds=seconds / 2))

    threading.Thread(target=accept, daemon=True).start()
    for _ in sys.stdin:
        print(sum(wire.trips for wire in wires), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
