"""`POST /predict`, and what else is for people."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seresnext
from runs import refused, run_cli
from runtimes.networks import (
    engine_logits,
    engine_maps,
    random_images,
    random_weights,
    tiny_spec,
)
from seresnext.data.preprocess import preprocess
from seresnext.errors import UserError
from seresnext.model.saved_model import save_model
from seresnext.report.maps import maps_of
from seresnext.serve.app import create_app
from seresnext.serve.limits import Limits
from seresnext.serve.openapi import description
from seresnext.serve.run import _listening, _names
from seresnext.serve.service import Served, Service
from serve.servers import Server, encoded

IMAGE = random_images(1, 40)[0]


def multipart(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    """A body with a file in each part, and its content type."""
    body = b""
    for name, data in parts:
        head = f'--X\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + b"--X--\r\n", "multipart/form-data; boundary=X"


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP", "BMP"])
def test_an_image(server: Server, model: seresnext.Model, format: str) -> None:
    data = encoded(IMAGE, format)
    answer = server.json("POST", "/predict?top=2", data)
    expected = model.predict(data, top=2)
    assert answer["model"] == "tiny"
    (found,) = answer["predictions"]
    assert [entry["class"] for entry in found["top"]] == list(expected.classes)
    assert [e["probability"] for e in found["top"]] == pytest.approx(expected.probabilities)


def test_maps(server: Server, maps_onnx: Path) -> None:
    with seresnext.load(maps_onnx) as model:
        found = maps_of(model.runtime)
        assert found
        logits, maps = found(preprocess(IMAGE, model.input)[None])
        best = int(logits[0].argmax())
        body, kind = multipart(("a.png", encoded(IMAGE)), ("b.png", b"no image"))
        path = "/predict?model=maps&cam=1"
        status, _, content = server.call("POST", path, body, content_type=kind)
        assert status == 200
        first, bad = json.loads(content)["predictions"]
        assert "cam" not in bad
        assert first["top"][0]["class"] == first["cam"]["class"] == model.class_names[best]
        assert first["cam"]["map"] == pytest.approx(maps[0, best], rel=1e-5)
        jpeg = base64.b64decode(first["cam"]["picture"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(jpeg)).size == (264, 264)
        plain = server.json("POST", "/predict?model=maps", encoded(IMAGE))["predictions"][0]
        assert "cam" not in plain
        assert plain["top"] == first["top"]


def test_maps_of_an_engine(tmp_path: Path) -> None:
    spec = tiny_spec(image_size=70)
    save_model(tmp_path, spec, random_weights(spec))
    served = Served("m", seresnext.load(tmp_path, device="cpu"))
    service = Service([served], Limits(max_batch=4))
    logits, maps = asyncio.run(service.seen(served, random_images(9, 70)))
    service.close()
    np.testing.assert_allclose(logits, engine_logits(spec), atol=1e-5)
    expected = engine_maps(spec)[np.arange(9), logits.argmax(1)]
    np.testing.assert_allclose(maps, expected, atol=1e-4)


def test_maps_that_a_model_does_not_give(server: Server) -> None:
    message = server.refused("POST", "/predict?model=tiny&cam=1", encoded(IMAGE))
    assert "--with-cam" in message
    assert "cam: expected" in server.refused("POST", "/predict?cam=yes", encoded(IMAGE))
    shown = [
        server.json("GET", f"/v2/models/{name}")["parameters"]["class_activation_maps"]
        for name in ("tiny", "maps")
    ]
    assert shown == [False, True]


def test_several_images_of_which_one_is_bad(server: Server, model: seresnext.Model) -> None:
    good, small = encoded(IMAGE), encoded(IMAGE[:20])
    body, kind = multipart(("a.png", good), ("../b<b>.jpg", b"<html>"), ("ü", small))
    status, _, content = server.call("POST", "/predict?model=other", body, content_type=kind)
    assert status == 200
    answer = json.loads(content)
    assert answer["model"] == "other"
    first, bad, last = answer["predictions"]
    assert [p["file"] for p in (first, bad, last)] == ["a.png", "../b<b>.jpg", "ü"]
    assert "web page" in bad["error"]
    assert "top" not in bad
    for found, data in ((first, good), (last, small)):
        assert [entry["class"] for entry in found["top"]] == list(model.predict(data).classes)


def test_a_bad_image(server: Server) -> None:
    assert "web page" in server.refused("POST", "/predict", b"<html>")
    assert "empty file" in server.refused("POST", "/predict", b"")
    bomb = encoded(np.zeros((1001, 1000, 3), np.uint8))
    assert "1000 x 1001 pixels" in server.refused("POST", "/predict", bomb)


@pytest.mark.parametrize(
    ("path", "body", "kind", "expected"),
    [
        ("/predict?top=0", b"", "", "top"),
        ("/predict?top=x", b"", "", "top"),
        ("/predict", b"", "multipart/form-data", "boundary"),
        ("/predict", b"abc", "multipart/form-data; boundary=X", "multipart"),
        ("/predict", multipart()[0], "multipart/form-data; boundary=X", "no file"),
        (
            "/predict",
            b'--X\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--X--\r\n',
            "multipart/form-data; boundary=X",
            "no file",
        ),
    ],
)
def test_a_wrong_request(server: Server, path: str, body: bytes, kind: str, expected: str) -> None:
    status, _, content = server.call("POST", path, body, content_type=kind)
    assert (status, expected in json.loads(content)["error"]) == (400, True), content


def test_an_unknown_model(server: Server) -> None:
    assert "here are tiny, other" in server.refused("POST", "/predict?model=x", b"", 404)


def test_the_description_has_every_path(server: Server) -> None:
    found = server.json("GET", "/openapi.json")
    assert found == description()
    service = Service([], Limits())
    try:
        routes = [route for route in create_app(service).routes if hasattr(route, "methods")]
    finally:
        service.close()
    served = {(r.path, method.lower()) for r in routes for method in r.methods - {"HEAD"}}
    described = {
        (path, method)
        for path, entry in found["paths"].items()
        for method in entry
        if method != "parameters"
    }
    assert described == served


def test_the_page_for_browsers(server: Server) -> None:
    status, headers, content = server.call("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert server.call("GET", "/assets/index.html")[2] == content
    assert server.call("GET", "/assets/../app.py")[0] == 404


def test_metrics(server: Server) -> None:
    before = {
        name: server.metric(name)
        for name in (
            'seresnext_images_total{model="tiny"}',
            'seresnext_requests_total{route="predict",status="400"}',
            'seresnext_errors_total{kind="invalid"}',
            'seresnext_request_seconds_count{route="predict"}',
            'seresnext_batch_images_sum{model="tiny"}',
        )
    }
    server.json("POST", "/predict", encoded(IMAGE))
    server.refused("POST", "/predict", b"<html>")
    steps = [server.metric(name) - value for name, value in before.items()]
    assert steps == [1, 1, 1, 2, 1]
    assert server.metric("seresnext_queue_images") == 0
    status, headers, content = server.call("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    line = r'(# (HELP|TYPE) seresnext_\w+ .+|seresnext_\w+({\w+="[^"\\]*"(,\w+="[^"\\]*")*})? \S+)'
    assert all(re.fullmatch(line, text) for text in content.decode().splitlines())


class TestCommand:
    def test_answers_are_sent_at_once(self) -> None:
        """asyncio sets TCP_NODELAY where a socket says that it is TCP; else answers take 40 ms."""
        with _listening("127.0.0.1", 0) as listener:
            assert listener.proto == socket.IPPROTO_TCP

    def test_names(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "a=b.onnx").touch()
        found = _names([f"{tmp_path}/run", "x.onnx", "two=x=1.onnx", f"c={tmp_path}/a=b.onnx"])
        assert found == {
            "run": tmp_path / "run",
            "x": Path("x.onnx"),
            "two": Path("x=1.onnx"),
            "c": tmp_path / "a=b.onnx",
        }

    @pytest.mark.parametrize(
        ("models", "expected"),
        [
            (["a/x.onnx", "b/x.onnx"], "two models are called 'x'"),
            (["a/ü x.onnx"], "NAME="),
            ([], "no model given"),
        ],
    )
    def test_wrong_names(self, models: list[str], expected: str) -> None:
        with pytest.raises(UserError, match=expected):
            _names(models)

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--max-batch", 0),
            ("--max-delay-ms", "nan"),
            ("--queue", -1),
            ("--max-body", "1e9"),
            ("--deadline", 0),
            ("--connections", 10**9),
            ("--port", 70000),
            ("--host", "256.1.1.1"),
            ("--token-file", "nowhere"),
        ],
    )
    def test_a_wrong_option(self, tiny_onnx: Path, arguments: tuple[object, ...]) -> None:
        assert str(arguments[0]) in refused("serve", tiny_onnx, *arguments)

    def test_no_model_and_a_missing_one(self, tmp_path: Path) -> None:
        assert "needs MODELS" in run_cli("serve", code=2).stderr
        assert "nowhere" in refused("serve", tmp_path / "nowhere.onnx", "--port", 0)

    def test_a_port_that_is_taken(self, server: Server, tiny_onnx: Path) -> None:
        assert f"port {server.port}" in refused("serve", tiny_onnx, "--port", server.port)
