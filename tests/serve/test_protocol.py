"""The Open Inference Protocol: paths, answers, and requests that are refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

import seresnext
from runtimes.networks import CLASSES, random_images
from seresnext.predict import softmax
from serve.servers import Server, tensor

INFER = "/v2/models/tiny/infer"
PIXELS = random_images(3, 32)
"""Of the network's size."""


@pytest.fixture(scope="module")
def logits(model: seresnext.Model) -> np.ndarray:
    return model.logits(PIXELS)


def test_server_and_health(server: Server) -> None:
    about = server.json("GET", "/v2")
    assert about["name"] == "seresnext"
    assert about["version"] == seresnext.__version__
    assert about["extensions"] == ["binary_tensor_data"]
    assert about["models"] == ["tiny", "other", "maps"]
    assert server.json("GET", "/v2/health/live") == {"live": True}
    assert server.json("GET", "/v2/health/ready") == {"ready": True}


@pytest.mark.parametrize("path", ["/v2/models/tiny", "/v2/models/tiny/versions/1"])
class TestModel:
    def test_metadata(self, server: Server, path: str) -> None:
        about = server.json("GET", path)
        assert about["name"] == "tiny"
        assert about["versions"] == ["1"]
        assert about["platform"] == "seresnext_onnx"
        assert [(t["name"], t["shape"]) for t in about["inputs"]] == [
            ("images", [-1, -1, -1, 3]),
            ("pixel_values", [-1, 32, 32, 3]),
        ]
        assert [(t["name"], t["shape"]) for t in about["outputs"]] == [
            ("logits", [-1, 5]),
            ("probabilities", [-1, 5]),
        ]
        assert about["parameters"]["class_names"] == list(CLASSES)

    def test_ready(self, server: Server, path: str) -> None:
        assert server.json("GET", f"{path}/ready") == {"ready": True}

    def test_infer(self, server: Server, path: str, logits: np.ndarray) -> None:
        request = tensor(PIXELS, "pixel_values", id="mine")
        answer = server.json("POST", f"{path}/infer", request)
        assert (answer["id"], answer["model_name"], answer["model_version"]) == (
            "mine",
            "tiny",
            "1",
        )
        first, second = answer["outputs"]
        assert (first["name"], first["datatype"], first["shape"]) == ("logits", "FP32", [3, 5])
        assert np.array_equal(np.float32(first["data"]).reshape(3, 5), logits)
        assert second["name"] == "probabilities"
        assert np.array_equal(np.float32(second["data"]), np.float32(softmax(logits)).ravel())


def test_nested_data_is_flat_data(server: Server) -> None:
    request = tensor(PIXELS, "pixel_values")
    flat = server.json("POST", INFER, request)
    request["inputs"][0]["data"] = PIXELS.tolist()
    assert server.json("POST", INFER, request) == flat
    assert "id" not in flat


def test_images_of_any_size_are_preprocessed_as_in_evaluation(
    server: Server, model: seresnext.Model
) -> None:
    images = random_images(2, 48)[:, :40]
    answer = server.json("POST", INFER, tensor(images, outputs=[{"name": "probabilities"}]))
    (output,) = answer["outputs"]
    for row, image in zip(np.reshape(output["data"], output["shape"]), images, strict=True):
        prediction = model.predict(image, top=5)
        expected = dict(zip(prediction.classes, prediction.probabilities, strict=True))
        assert row == pytest.approx([expected[name] for name in CLASSES], rel=1e-5)


def test_the_other_name(server: Server) -> None:
    request = tensor(PIXELS, "pixel_values")
    answers = [
        server.json("POST", f"/v2/models/{name}/infer", request) for name in ("tiny", "other")
    ]
    assert answers[0]["outputs"] == answers[1]["outputs"]
    assert answers[1]["model_name"] == "other"


def test_unknown_paths(server: Server) -> None:
    assert "'nobody'" in server.refused("GET", "/v2/models/nobody", status=404)
    assert "'2'" in server.refused("POST", "/v2/models/tiny/versions/2/infer", b"{}", 404)
    assert "/v3" in server.refused("GET", "/v3", status=404)
    assert "GET" in server.refused("GET", INFER, status=405)


# Requests that are refused -------------------------------------------------------------------


def change(**fields: Any) -> dict[str, Any]:
    """A request whose one tensor has other fields; None removes one."""
    request = tensor(PIXELS[:1], "pixel_values")
    entry = request["inputs"][0] | fields
    request["inputs"] = [{name: value for name, value in entry.items() if value is not None}]
    return request


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "the body: expected an object"),
        (b"9" * 5000, "not JSON"),
        ({}, "inputs: expected a list with one tensor"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [1]}, "inputs"),
        (tensor(PIXELS, id=7), "id: expected a text"),
        (tensor(PIXELS, parameters=[]), "parameters: expected an object"),
        (change(name="input"), "the input's name: expected images or pixel_values"),
        (change(name=[]), "the input's name"),
        (change(datatype="FP32"), "datatype: expected UINT8"),
        (change(shape=None), "expected shape [N, height, width, 3]"),
        (change(shape=[1, 3, 32, 32]), "expected shape"),
        (change(shape=[0, 32, 32, 3]), "expected shape"),
        (change(shape=[True, 32, 32, 3]), "expected shape"),
        (change(shape=[2, 32, 32, 3]), "expected 6144 values for shape [2, 32, 32, 3], got 3072"),
        (change(shape=[10**30, 32, 32, 3]), "expected shape"),
        (change(shape=[1, 16, 64, 3]), "expected shape [N, 32, 32, 3], got [1, 16, 64, 3]"),
        (change(data=None), "data"),
        (change(data="abc"), "data"),
        (change(data=[]), "data"),
        (change(data=[[1], [1, 2]]), "data"),
        (change(data=[256] * 3072), "from 0 to 255"),
        (change(data=[-1] * 3072), "from 0 to 255"),
        (change(data=[10**30] * 3072), "from 0 to 255"),
        (change(data=[0.5] * 3072), "from 0 to 255"),
        (change(data=[True] * 3072), "from 0 to 255"),
        (change(parameters={"binary_data_size": 5}), "binary_data_size 0"),
        (tensor(PIXELS, outputs=[{"name": "scores"}]), "logits or probabilities"),
        (tensor(PIXELS, outputs=[3]), "logits or probabilities"),
        (tensor(PIXELS, outputs={}), "outputs: expected a list"),
        (tensor(PIXELS, outputs=[{"name": "logits"}] * 2), "each name once"),
        (
            tensor(PIXELS, outputs=[{"name": "logits", "parameters": {"classification": 3}}]),
            "no classification",
        ),
    ],
)
def test_a_wrong_request(server: Server, request_: Any, expected: str) -> None:
    assert expected in server.refused("POST", INFER, request_)


def test_too_many_images_and_pixels(server: Server) -> None:
    many = np.zeros((65, 2, 2, 3), np.uint8)
    assert "at most 64 images" in server.refused("POST", INFER, tensor(many), 413)
    large = np.zeros((1, 1001, 1000, 3), np.uint8)
    head = tensor(large[:0])
    head["inputs"][0] |= {"shape": [*large.shape], "parameters": {"binary_data_size": large.nbytes}}
    del head["inputs"][0]["data"]
    status, content = binary(server, head, large.tobytes())
    assert (status, "1000000 pixels" in content["error"]) == (413, True)


# Binary tensors ------------------------------------------------------------------------------


def binary(server: Server, head: dict[str, Any], data: bytes, length: str = "") -> tuple[int, Any]:
    text = json.dumps(head).encode()
    headers = {"Inference-Header-Content-Length": length or str(len(text))}
    status, _, content = server.call("POST", INFER, text + data, **headers)
    return status, json.loads(content)


@pytest.mark.parametrize("length", ["x", "-1", "1" * 5000, "99999999", "²"])
def test_a_lying_length_of_the_json(server: Server, length: str) -> None:
    status, answer = binary(server, change(), b"", length.encode().decode("latin-1"))
    assert (status, "Content-Length: expected 0 to" in answer["error"]) == (400, True)


@pytest.mark.parametrize(
    ("stated", "sent"), [(3072, 3071), (3071, 3071), (3072, 3073), (-1, 3072), (None, 3072)]
)
def test_a_lying_size_of_a_tensor(server: Server, stated: int | None, sent: int) -> None:
    parameters = {} if stated is None else {"binary_data_size": stated}
    status, answer = binary(server, change(data=None, parameters=parameters), b"\0" * sent)
    assert status == 400, answer


@pytest.fixture(scope="module")
def client(server: Server) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(f"127.0.0.1:{server.port}")


class TestTritonClient:
    """A client that others wrote."""

    def test_health_and_metadata(self, client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata()["name"] == "seresnext"
        assert client.get_model_metadata("tiny", "1")["inputs"][0]["name"] == "images"

    @pytest.mark.parametrize("binary_in", [True, False])
    @pytest.mark.parametrize("binary_out", [True, False])
    @pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
    def test_infer(
        self,
        client: triton.InferenceServerClient,
        logits: np.ndarray,
        binary_in: bool,
        binary_out: bool,
        compression: str | None,
    ) -> None:
        given = triton.InferInput("pixel_values", list(PIXELS.shape), "UINT8")
        given.set_data_from_numpy(PIXELS, binary_data=binary_in)
        wanted = triton.InferRequestedOutput("logits", binary_data=binary_out)
        result = client.infer(
            "tiny",
            [given],
            outputs=[wanted],
            request_id="7",
            request_compression_algorithm=compression,
        )
        assert np.array_equal(result.as_numpy("logits"), logits)
        assert result.get_response()["id"] == "7"
        assert result.as_numpy("probabilities") is None

    def test_all_outputs_are_binary_when_none_is_named(
        self, client: triton.InferenceServerClient, logits: np.ndarray
    ) -> None:
        given = triton.InferInput("pixel_values", list(PIXELS.shape), "UINT8")
        given.set_data_from_numpy(PIXELS)
        result = client.infer("tiny", [given], model_version="1")
        assert np.array_equal(result.as_numpy("logits"), logits)
        assert "data" not in result.get_output("probabilities")

    def test_an_error(self, client: triton.InferenceServerClient) -> None:
        given = triton.InferInput("pixel_values", [1, 8, 8, 3], "UINT8")
        given.set_data_from_numpy(np.zeros((1, 8, 8, 3), np.uint8))
        with pytest.raises(triton.InferenceServerException, match="expected shape"):
            client.infer("tiny", [given])
