"""A web server of real sockets for tests: ranges, etags, and the faults that a test asks for."""

import hashlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from mmlight.data.shards import remote, store


class ObjectServer:
    """Serves the files of a folder; what it holds may change while it runs.

    Attributes:
        busy: share of requests that are answered with 503.
        cut: share of bodies that end in the middle.
        down_until: until then connections are closed without an answer.
        denied: answer with 403.
        ranges: whether it knows ranges.
        sized: whether it tells how long bodies are; else they come in chunks.
        slow_s: seconds that each chunk of a body takes.
        log: what was asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.busy = self.cut = 0.0
        self.down_until = 0.0
        self.denied = False
        self.ranges = self.sized = True
        self.slow_s = 0.0
        self.password = ""
        self.log: Counter[str] = Counter()
        self.num_bytes = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _drawn(self, share: float) -> bool:
        with self._lock:
            return self._random.random() < share

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        self.log[path] += 1
        if time.monotonic() < self.down_until:
            request.close_connection = True
            return
        if self.password and request.headers.get("Authorization") != self.password:
            return self._status(request, 401)
        if self.denied:
            return self._status(request, 403)
        if self._drawn(self.busy):
            return self._status(request, 503)
        file = self.folder / path
        if not file.is_file():
            return self._status(request, 404)
        data = file.read_bytes()
        start, stop, status = 0, len(data), 200
        asked = request.headers.get("Range")
        if asked and self.ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            stop = min(int(last) + 1, len(data)) if last else len(data)
        request.send_response(status)
        request.send_header("ETag", f'"{hashlib.md5(data).hexdigest()}"')
        if self.sized:
            request.send_header("Content-Length", str(stop - start))
        else:
            request.send_header("Transfer-Encoding", "chunked")
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        request.end_headers()
        if stop - start > 1 and self._drawn(self.cut):
            with self._lock:
                stop = self._random.randrange(start, stop)
            request.close_connection = True
        for at in range(start, stop, 1 << 16):
            if self.slow_s:
                time.sleep(self.slow_s)
            part = data[at : min(at + (1 << 16), stop)]
            request.wfile.write(part if self.sized else b"%x\r\n%b\r\n" % (len(part), part))
            self.num_bytes += min(at + (1 << 16), stop) - at
        if not self.sized and not request.close_connection:
            request.wfile.write(b"0\r\n\r\n")

    def _status(self, request: BaseHTTPRequestHandler, status: int) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()


@contextmanager
def serving(folder: Path) -> Iterator[ObjectServer]:
    server = ObjectServer(folder)
    try:
        yield server
    finally:
        server.close()


def wait_little(monkeypatch):
    """Wait thousandths of seconds; go to no proxy and to no file of the user."""
    monkeypatch.setattr(store, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(store, "_LONGEST_WAIT_S", 0.05)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("MMLIGHT_INDEX_DIR", raising=False)
    remote._stores.clear()
