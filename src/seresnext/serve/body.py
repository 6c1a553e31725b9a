"""Request bodies: bounded in size and time, decompressed as they come in."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from .limits import Limits, Refusal, Share, invalid

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
"""Content-Encoding -> zlib's name for its format."""


class ClientLeft(Exception):
    """The client has closed the connection; nobody waits for an answer."""


async def read_body(request: Request, limits: Limits, memory: Share) -> bytes:
    """Return the whole body, decompressed; what it takes is taken from `memory` as it comes in.

    Raises Refusal: 413 for a body that is larger than allowed, from its declared length if there is
    one; 408 for one that comes too slowly; 400 for one that is compressed wrongly. Raises
    ClientLeft.
    """
    largest = limits.body_bytes
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > largest:
        raise _too_large(limits)
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", *_WINDOW_BITS):
        raise Refusal(
            415, "Content-Encoding: expected gzip, deflate or identity", "unsupported_encoding"
        )
    body = bytearray()
    try:
        async with asyncio.timeout(limits.client_deadline):
            chunks: AsyncIterator[bytes] = request.stream()
            if encoding != "identity":
                chunks = _decompressed(chunks, _WINDOW_BITS[encoding], largest + 1)
            async for chunk in chunks:
                if len(body) + len(chunk) > largest:
                    raise _too_large(limits)
                memory.take(len(chunk))
                body += chunk
    except TimeoutError:
        message = f"the body was not complete after {limits.client_deadline:g} s"
        raise Refusal(408, message, "slow_client") from None
    except ClientDisconnect:
        raise ClientLeft from None
    return bytes(body)


async def _decompressed(
    chunks: AsyncIterator[bytes], window_bits: int, most: int
) -> AsyncIterator[bytes]:
    """Decompress, stopping after `most` bytes. Raises Refusal for damaged data."""
    decoder, total = zlib.decompressobj(window_bits), 0
    try:
        async for chunk in chunks:
            out = decoder.decompress(chunk, most - total)
            total += len(out)
            yield out
            if decoder.unused_data:
                raise invalid("the body goes on after its compressed data")
    except zlib.error:
        raise invalid("the body is not compressed as its Content-Encoding says") from None
    if not decoder.eof:
        raise invalid("the compressed body ends early")


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body is larger than {limits.max_body:g} MB", "too_large")
