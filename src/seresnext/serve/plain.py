"""`POST /predict`: image files in, class names and probabilities out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..data.decode import ImageError
from ..predict import Prediction, ranked, softmax
from ..report.maps import encode, overlay
from .limits import invalid
from .service import Served, Work

MAX_FIELDS = 1000
"""Parts of a multipart body, files or not."""
_PICTURE = 264
"""Height of a map's picture, pixels: twice that on the page."""


async def predict(request: Request, served: Served, work: Work) -> JSONResponse:
    """Answer for the one image that is the body, or for each file of a multipart body.

    An image that cannot be read is a 400 if it is the body; among several it has an `error` of its
    own. Raises Refusal.
    """
    top, cam = _top(request), _cam(request, served)
    files = [("", work.body)]
    several = request.headers.get("content-type", "").startswith("multipart/form-data")
    if several:
        files = await _files(request, work.body)
    work.take(len(files))
    decoded = await work.decoded(served, [data for _, data in files])
    pixels = [image for image in decoded if not isinstance(image, ImageError)]
    if not several and not pixels:
        raise invalid(f"cannot read the image: {decoded[0]}")
    answers = iter(await _answers(served, work, pixels, cam) if pixels else ())
    predictions = []
    for (name, _), image in zip(files, decoded, strict=True):
        if isinstance(image, ImageError):
            predictions.append(Prediction(name, (), (), str(image)).to_dict())
            continue
        probabilities, more = next(answers)
        prediction = ranked(probabilities, served.class_names, top, name)
        predictions.append({**prediction.to_dict(), **more})
    return JSONResponse({"model": served.name, "predictions": predictions})


async def _answers(
    served: Served, work: Work, pixels: list[NDArray[np.uint8]], cam: bool
) -> list[tuple[NDArray[Any], dict[str, Any]]]:
    """Class probabilities [K] of each image, and what else its answer says."""
    if not cam:
        rows = softmax(await work.service.logits(served, np.stack(pixels)))
        return [(row, {}) for row in rows]
    logits, maps = await work.service.seen(served, np.stack(pixels))
    draw = work.service.in_pool
    pictures = await asyncio.gather(
        *(draw(_picture, image, each) for image, each in zip(pixels, maps, strict=True))
    )
    return [
        (row, {"cam": {"class": served.class_names[k], "map": m.tolist(), "picture": picture}})
        for row, k, m, picture in zip(
            softmax(logits), logits.argmax(1), maps, pictures, strict=True
        )
    ]


def _picture(image: NDArray[np.uint8], activation: NDArray[np.float32]) -> str:
    """The map over what the network saw, as the address of a JPEG."""
    jpeg = encode(overlay(image, activation), _PICTURE)
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _cam(request: Request, served: Served) -> bool:
    """Whether class activation maps are asked for. Raises Refusal where the model gives none."""
    text = request.query_params.get("cam", "0")
    if text not in ("0", "1"):
        raise invalid("cam: expected 0 or 1")
    if text == "1" and served.maps is None:
        raise invalid(
            f"cam: {served.name} gives no class activation maps; expected a run or model folder, "
            "or an ONNX or OpenVINO file exported with --with-cam, of more than 32 pixels"
        )
    return text == "1"


def _top(request: Request) -> int:
    text = request.query_params.get("top", "5")
    if not (text.isdecimal() and len(text) < 7 and int(text) >= 1):
        raise invalid("top: expected a whole number, 1 or more")
    return int(text)


async def _files(request: Request, body: bytes) -> list[tuple[str, bytes]]:
    """Name and content of each file in a multipart body, held in memory. Raises Refusal."""

    async def whole() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(request.headers, whole(), max_files=MAX_FIELDS, max_fields=MAX_FIELDS)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise invalid(f"the multipart body is damaged: {error.message}") from None
    uploads = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not uploads:
        raise invalid("the multipart body holds no file; expected one part or more with a filename")
    return [(upload.filename or "", await upload.read()) for upload in uploads]
