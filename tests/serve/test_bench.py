"""`seresnext bench serve`, with a tiny network and little load."""

from __future__ import annotations

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from runs import refused, run_cli
from seresnext.serve.bench import LITSERVE, OURS, LoadResult, _ask, _Request, print_results

HAS_LITSERVE = bool(importlib.util.find_spec("litserve"))


@pytest.mark.slow
def test_ways(tiny_onnx: Path) -> None:
    few = ("--clients", 1, 3, "--rounds", 2, "--seconds", 0.2)
    done = run_cli("bench", "serve", tiny_onnx, *few, "--json")
    results = json.loads(done.stdout)
    assert ("LitServe is not installed" in done.stderr) is not HAS_LITSERVE
    servers = [OURS, "Starlette, no batches", *[LITSERVE] * HAS_LITSERVE]
    assert [r["clients"] for r in results] == [0, 0, *[1, 3] * len(servers)]
    assert [r["way"] for r in results[2::2]] == servers
    assert all(r["images_per_second"] > 0 and r["errors"] == 0 for r in results)
    assert results[0]["ratio"] == 1
    assert [r["p50_ms"] for r in results[:2]] == [None, None]
    assert all(0 < r["p50_ms"] <= r["p99_ms"] for r in results[2:])


def test_errors_are_counted_and_are_no_answers() -> None:
    """A server that refuses every second request, and then is gone."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        asked = 0

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            Handler.asked += 1
            self.send_response(200 if Handler.asked % 2 else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    result = LoadResult("other", 1)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        request = _Request(server.server_port, b"photo", "image/jpeg")
        _ask(request, 0.05, result)
        server.shutdown()
    assert len(result.latencies) == (Handler.asked + 1) // 2
    assert 0 < result.images_per_second < len(result.latencies) / 0.05
    assert result.errors == Handler.asked // 2
    gone = LoadResult("gone", 2)
    _ask(request, 0.01, gone)
    assert (gone.rates, gone.errors, gone.percentile_ms(99)) == ([0.0], 2, None)


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    limit = LoadResult("loop", 0, rates=[49.0, 1.0, 50.0, 1000.0, 51.0])
    print_results([limit, LoadResult("served", 4, [45.0], [0.01, 0.03], errors=1)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0] == ["loop", "-", "50.0", "1.00", "-", "-", "0"]
    assert rows[1] == ["served", "4", "45.0", "0.90", "20.0", "29.8", "1"]


def test_a_missing_model(tmp_path: Path) -> None:
    assert "nowhere" in refused("bench", "serve", tmp_path / "nowhere.onnx")
