"""The Open Inference Protocol's requests and answers, with its binary tensor extension.

https://github.com/open-inference/open-inference-protocol; the extension is Triton's.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from .. import __version__
from ..predict import softmax
from .limits import MAX_JSON_BYTES, Refusal, invalid
from .service import VERSION, Served

LENGTH_HEADER = "Inference-Header-Content-Length"
"""Bytes of JSON at the start of a body that goes on with binary tensors."""
IMAGES = "images"
"""Input: any size, preprocessed by the server."""
PIXELS = "pixel_values"
"""Input: of the network's size, already preprocessed."""
OUTPUTS = ("logits", "probabilities")

SERVER = {"name": "seresnext", "version": __version__, "extensions": ["binary_tensor_data"]}


def metadata(served: Served) -> dict[str, Any]:
    """Return the protocol's description of a model, and its class names."""
    side = served.model.input.image_size
    classes = len(served.class_names)
    return {
        "name": served.name,
        "versions": [VERSION],
        "platform": f"seresnext_{served.model.runtime.name}",
        "inputs": [
            {"name": IMAGES, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, side, side, 3]},
        ],
        "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, classes]} for name in OUTPUTS],
        "parameters": {
            "class_names": list(served.class_names),
            "class_activation_maps": served.maps is not None,
        },
    }


@dataclass(frozen=True)
class Inference:
    """A request, checked."""

    id: str | None
    input: str
    """`IMAGES` or `PIXELS`."""
    images: NDArray[np.uint8]
    """[N, H, W, 3], N at least 1."""
    outputs: tuple[tuple[str, bool], ...]
    """Name of each output, and whether it is sent as binary data."""


# Requests ----------------------------------------------------------------------------------


def parse(body: bytes, json_length: str | None, side: int, max_pixels: int) -> Inference:
    """Parse a request's body; `json_length` is the value of `LENGTH_HEADER`.

    `side` is that of the network's input. Raises Refusal (400, 413).
    """
    text, binary = _split(body, json_length)
    try:
        request = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {error}") from None
    _expect(isinstance(request, dict), "the body", "an object")
    id_ = request.get("id")
    _expect(id_ is None or isinstance(id_, str), "id", "a text")
    parameters = _parameters(request, "parameters")
    inputs = request.get("inputs")
    _expect(
        isinstance(inputs, list) and len(inputs) == 1 and isinstance(inputs[0], dict),
        "inputs",
        f"a list with one tensor, {IMAGES} or {PIXELS}",
    )
    name = inputs[0].get("name")
    _expect(name in (IMAGES, PIXELS), "the input's name", f"{IMAGES} or {PIXELS}")
    images = _tensor(inputs[0], name, binary)
    if name == PIXELS and images.shape[1:3] != (side, side):
        raise invalid(f"{PIXELS}: expected shape [N, {side}, {side}, 3], got {list(images.shape)}")
    if images.shape[1] * images.shape[2] > max_pixels:
        raise Refusal(413, f"{IMAGES}: at most {max_pixels} pixels in an image", "too_large")
    by_default = parameters.get("binary_data_output", False) is True
    return Inference(id_, name, images, _outputs(request.get("outputs"), by_default))


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON, and the binary tensors that follow it."""
    length = len(body)
    if json_length is not None:
        if not (json_length.isdecimal() and len(json_length) < 12 and int(json_length) <= length):
            raise invalid(
                f"{LENGTH_HEADER}: expected 0 to {length}, the length of the body, "
                f"got {json_length[:40]!r}"
            )
        length = int(json_length)
    if length > MAX_JSON_BYTES:
        raise Refusal(
            413, f"more than {MAX_JSON_BYTES} bytes of JSON; send binary tensors", "too_large"
        )
    return body[:length], memoryview(body)[length:]


def _tensor(entry: dict[str, Any], name: str, binary: memoryview) -> NDArray[np.uint8]:
    """Return one uint8 tensor [N, H, W, 3], from the JSON or from the bytes after it."""
    shape = entry.get("shape")
    if not (
        isinstance(shape, list)
        and len(shape) == 4
        and all(type(n) is int and 0 < n < 1 << 31 for n in shape)
        and shape[3] == 3
    ):
        raise invalid(f"{name}: expected shape [N, height, width, 3]")
    _expect(entry.get("datatype") == "UINT8", f"{name}: datatype", "UINT8")
    size = math.prod(shape)
    stated = _parameters(entry, f"{name}: parameters").get("binary_data_size")
    if stated is None:
        if len(binary):
            raise invalid(f"{len(binary)} bytes follow the JSON, of no tensor's binary_data_size")
        flat = _numbers(entry.get("data"), name)
    else:
        if type(stated) is not int or stated != len(binary) or "data" in entry:
            raise invalid(
                f"{name}: expected binary_data_size {len(binary)}, the bytes that follow the JSON, "
                "and no data"
            )
        flat = np.frombuffer(binary, np.uint8)
    if flat.size != size:
        raise invalid(f"{name}: expected {size} values for shape {shape}, got {flat.size}")
    return flat.reshape(shape)


def _numbers(data: Any, name: str) -> NDArray[np.uint8]:
    """Return the numbers of a flat or nested list, in one dimension."""
    expected = f"{name}: data: expected a list, flat or nested, of whole numbers from 0 to 255"
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError, RecursionError):
        raise invalid(expected) from None
    if not isinstance(data, list) or values.dtype.kind not in "iu" or values.size == 0:
        raise invalid(expected)
    if values.min() < 0 or values.max() > 255:
        raise invalid(expected)
    return values.astype(np.uint8).ravel()


def _outputs(entries: Any, by_default: bool) -> tuple[tuple[str, bool], ...]:
    if entries is None or entries == []:
        return tuple((name, by_default) for name in OUTPUTS)
    chosen: list[tuple[str, bool]] = []
    _expect(isinstance(entries, list), "outputs", "a list")
    for entry in entries[: len(OUTPUTS) + 1]:
        name = entry.get("name") if isinstance(entry, dict) else None
        _expect(name in OUTPUTS, "the output's name", " or ".join(OUTPUTS))
        parameters = _parameters(entry, f"{name}: parameters")
        for unsupported in ("classification", "shared_memory_region"):
            _expect(unsupported not in parameters, f"{name}: parameters", f"no {unsupported}")
        chosen.append((str(name), parameters.get("binary_data", by_default) is True))
    _expect(len({name for name, _ in chosen}) == len(entries), "outputs", "each name once")
    return tuple(chosen)


def _parameters(entry: dict[str, Any], name: str) -> dict[str, Any]:
    parameters = entry.get("parameters", {})
    _expect(isinstance(parameters, dict), name, "an object")
    return dict(parameters)


def _expect(holds: bool, what: str, expected: str) -> None:
    if not holds:
        raise invalid(f"{what}: expected {expected}")


# Answers -----------------------------------------------------------------------------------


def answer(request: Inference, served: Served, logits: NDArray[Any]) -> Response:
    """Return the answer: all of it JSON, or JSON and the binary tensors after it."""
    values = {"logits": logits, "probabilities": softmax(logits)}
    outputs, tensors = [], []
    for name, binary in request.outputs:
        tensor = np.ascontiguousarray(values[name], "<f4")
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(tensor.shape)}
        if binary:
            tensors.append(tensor.tobytes())
            output["parameters"] = {"binary_data_size": tensor.nbytes}
        else:
            output["data"] = tensor.ravel().tolist()
        outputs.append(output)
    head: dict[str, Any] = {"model_name": served.name, "model_version": VERSION}
    if request.id is not None:
        head["id"] = request.id
    text = json.dumps({**head, "outputs": outputs}, allow_nan=False).encode()
    if not tensors:
        return Response(text, media_type="application/json")
    return Response(
        text + b"".join(tensors),
        headers={LENGTH_HEADER: str(len(text))},
        media_type="application/octet-stream",
    )
