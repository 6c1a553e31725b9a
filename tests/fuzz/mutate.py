"""Damaged and hostile variants of a file, the same for the same number."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Callable

import numpy as np

Random = np.random.Generator

_NUMBERS = [
    *("0", "-1", "1e999", "-1e-300", "2.5", "18446744073709551616", "9999999999", "1e5", "NaN"),
    *("true", "null", '""', '"\\u001b[31m"', '"\\ud800"', '"\\u0000"', "[]", "{}", "[[[[[[]]]]]]"),
    *('"' + "x" * 5000 + '"', "[" * 2000 + "]" * 2000, "[1, 2]", '{"a": 1}', "-0.0", "255"),
]
"""What a number or a text of a JSON file is replaced by."""
_WORDS = [b"\xff\xff\xff\xff", b"\0\0\0\x80", b"\0" * 8, b"\xff" * 8, b"\x7f\xff", b"\x80\x80\x80"]


def damaged(data: bytes, rng: Random) -> bytes:
    """Flipped, overwritten, removed, repeated, inserted bytes, or an early end."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        # Most formats have their structure at the start.
        reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
        at = int(rng.integers(0, max(reach, 1)))
        length = int(rng.integers(1, 64))
        match rng.integers(0, 7):
            case 0 if changed:
                changed[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at : at + 1] = bytes([int(rng.integers(0, 256))])
            case 2:
                word = _WORDS[int(rng.integers(0, len(_WORDS)))]
                changed[at : at + len(word)] = word
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * int(rng.integers(1, 20))
            case 5:
                changed[at:at] = rng.bytes(length)
            case _ if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def odd_json(data: bytes, rng: Random) -> bytes:
    """One or two values replaced by odd ones; sometimes plain damage."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    text = data.decode()
    for _ in range(rng.integers(1, 3)):
        places = list(re.finditer(r'"(?:[^"\\]|\\.)*"|-?\d[\d.e+-]*|true|false|null', text))
        place = places[int(rng.integers(0, len(places)))]
        value = _NUMBERS[int(rng.integers(0, len(_NUMBERS)))]
        text = text[: place.start()] + value + text[place.end() :]
    return text.encode("utf-8", "surrogatepass")


def odd_archive(data: bytes, rng: Random) -> bytes:
    """A ZIP archive with one member damaged, its checksum made to fit; sometimes plain damage."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = old.namelist()
        small = [name for name in members if old.getinfo(name).file_size < 100_000]
        chosen = small[int(rng.integers(0, len(small)))]
        if rng.random() < 0.5:  # where the structure is
            chosen = next((n for n in members if n.endswith(("data.pkl", "config.json"))), chosen)
        for name in members:
            content = old.read(name)
            change = odd_json if name.endswith("json") else damaged
            new.writestr(name, change(content, rng) if name == chosen else content)
    return out.getvalue()


def odd_safetensors(data: bytes, rng: Random) -> bytes:
    """The header changed, its length made to fit; sometimes plain damage."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    end = 8 + int.from_bytes(data[:8], "little")
    header = odd_json(data[8:end], rng)
    return len(header).to_bytes(8, "little") + header + data[end:]


def signed_mindir(data: bytes, rng: Random) -> bytes:
    """A MindIR that is damaged and has a digest that fits, as an attacker would write it."""
    from mindspore.train.mind_ir_pb2 import ModelProto

    from seresnext.runtimes.artifact import METADATA_KEY
    from seresnext.runtimes.mindir import user_info, with_user_info

    model = ModelProto()
    model.ParseFromString(data)
    metadata = user_info(model)[METADATA_KEY]
    if rng.random() < 0.3:
        metadata = odd_json(metadata.encode(), rng).decode("utf-8", "replace")
    model.ClearField("user_info")
    plain = model.SerializeToString()
    if rng.random() < 0.7:
        plain = damaged(plain, rng)
    return with_user_info(plain, metadata, hashlib.sha256(plain).hexdigest())


def odd_onnx(data: bytes, rng: Random) -> bytes:
    """Fields of nodes, tensors and metadata changed; sometimes plain damage."""
    import onnx

    if rng.random() < 0.4:
        return damaged(data, rng)
    model = onnx.load_model_from_string(data)
    numbers = [0, -1, 1, 2, 3, 7, 64, 10_000, 1 << 31, (1 << 63) - 1, -(1 << 63)]

    def number() -> int:
        return numbers[int(rng.integers(0, len(numbers)))]

    node = model.graph.node[int(rng.integers(0, len(model.graph.node)))]
    tensor = model.graph.initializer[int(rng.integers(0, len(model.graph.initializer)))]
    match rng.integers(0, 8):
        case 0:
            node.input[0] = model.graph.node[int(rng.integers(0, len(model.graph.node)))].output[0]
        case 1:
            node.op_type = model.graph.node[int(rng.integers(0, len(model.graph.node)))].op_type
        case 2 if tensor.dims:
            tensor.dims[0] = number()
        case 3:
            tensor.data_type = int(rng.integers(0, 24))
        case 4:
            tensor.dims[:] = list(tensor.dims) + [1] * int(rng.integers(1, 40))
        case 5:
            text = model.metadata_props[0]
            text.value = odd_json(text.value.encode(), rng).decode("utf-8", "replace")
        case 6:
            model.opset_import[0].version = number()
        case _:
            for attribute in node.attribute:
                if attribute.ints:
                    attribute.ints[int(rng.integers(0, len(attribute.ints)))] = number()
                else:
                    attribute.i = number()
    return bytes(model.SerializeToString())


def odd_xml(data: bytes, rng: Random) -> bytes:
    """Attributes replaced by odd ones; sometimes plain damage."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    text = data.decode()
    places = list(re.finditer(r'"[^"]*"', text))
    odd = [*('"-1"', '"0"', '"99999999999"', '"1e5"', '""', '"&#27;[31m"', '"7,7,7,7,7,7,7,7"')]
    for _ in range(rng.integers(1, 3)):
        place = places[int(rng.integers(0, len(places)))]
        other = places[int(rng.integers(0, len(places)))][0]
        value = odd[int(rng.integers(0, len(odd)))] if rng.random() < 0.6 else other
        text = text[: place.start()] + value + text[place.end() :]
        places = list(re.finditer(r'"[^"]*"', text))
    return text.encode()


Mutation = Callable[[bytes, Random], bytes]
