"""`POST /predict`: image files in, class names and probabilities out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..data.decode import ImageError
from ..predict import Prediction, ranked, softmax
from .limits import invalid
from .service import Served, Work

MAX_FIELDS = 1000
"""Parts of a multipart body, files or not."""


async def predict(request: Request, served: Served, work: Work) -> JSONResponse:
    """Answer for the one image that is the body, or for each file of a multipart body.

    An image that cannot be read is a 400 if it is the body; among several it has an `error` of its
    own. Raises Refusal.
    """
    top = _top(request)
    files = [("", work.body)]
    several = request.headers.get("content-type", "").startswith("multipart/form-data")
    if several:
        files = await _files(request, work.body)
    work.take(len(files))
    decoded = await work.decoded(served, [data for _, data in files])
    pixels = [image for image in decoded if not isinstance(image, ImageError)]
    if not several and not pixels:
        raise invalid(f"cannot read the image: {decoded[0]}")
    rows = iter(softmax(await work.service.logits(served, np.stack(pixels))) if pixels else ())
    predictions = [
        Prediction(name, (), (), str(image))
        if isinstance(image, ImageError)
        else ranked(next(rows), served.class_names, top, name)
        for (name, _), image in zip(files, decoded, strict=True)
    ]
    answer: dict[str, Any] = {"model": served.name}
    return JSONResponse({**answer, "predictions": [p.to_dict() for p in predictions]})


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
