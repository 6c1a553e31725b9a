"""Server processes for the tests, and small clients that can also misbehave."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runs import SERESNEXT, finish, start, wait_until


class Server:
    """A running `seresnext serve`."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def json(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        """The JSON that is answered; `body` is sent as JSON unless it is bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        found, headers, content = self.call(method, path, data)
        assert found == status, (found, content)
        assert headers["content-type"] == "application/json"
        return json.loads(content)

    def refused(self, method: str, path: str, body: Any = None, status: int = 400) -> str:
        """The message of an error."""
        answer = self.json(method, path, body, status)
        assert list(answer) == ["error"]
        return str(answer["error"])

    def connect(self) -> socket.socket:
        """A raw connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def metric(self, name: str) -> float:
        """The value of one line of /metrics; 0 if it is not there."""
        text = self.call("GET", "/metrics")[2].decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def peak_memory(self) -> int:
        """The most resident bytes of the process so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def stop(self) -> subprocess.CompletedProcess[str]:
        """Ask it to end; what it printed, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return finish(self.process, 60)


@contextlib.contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Server]:
    """Start `seresnext serve ARGUMENTS` on a free port; end it afterwards."""
    command = [*SERESNEXT, "serve", *map(str, arguments), "--port", "0"]
    process = start(command, **environment)
    assert process.stdout
    port = 0
    for text in process.stdout:
        if found := re.fullmatch(r"listening on http://127\.0\.0\.1:(\d+)\n", text):
            port = int(found[1])
            break
    assert port, process.communicate()
    server = Server(process, port)
    try:
        wait_until(lambda: _live(server), process)
        yield server
        if process.poll() is None:
            done = server.stop()
            assert done.returncode == 0, done.stderr
            assert done.stderr == "", done.stderr
    finally:
        process.kill()
        process.communicate()


def _live(server: Server) -> bool:
    try:
        return server.call("GET", "/v2/health/live")[0] == 200
    except OSError:
        return False


def answer(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return received


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """The content of an image file."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def tensor(pixels: np.ndarray, name: str = "images", **fields: Any) -> dict[str, Any]:
    """A request with one tensor, as JSON has it."""
    data = {"data": pixels.ravel().tolist()}
    return {
        "inputs": [{"name": name, "shape": list(pixels.shape), "datatype": "UINT8", **data}],
        **fields,
    }
