"""List the tensors of PyTorch's `.pth` files, without PyTorch and without running anything in them.

A file is a ZIP archive with a pickle and one member per storage, or, before PyTorch 1.6, five
pickles and then the storages.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, listed, one_line
from ..tensors import DTYPES, Stored
from .pickles import MAX_PICKLE_BYTES, Refused, Tensor, read_pickle

_ANCHOR = "layer1.0.conv1.weight"
"""Every layout of the family has an entry whose name ends so."""
_MAX_DEPTH = 8
"""Dictionaries around the weights."""
_USUAL = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
"""Keys under which training scripts save what is to be used."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_Span = tuple[int, int]


def list_pth(path: Path) -> tuple[dict[str, Stored], list[str]]:
    """(name -> tensor, notes on what was chosen and left out).

    Raises UserError for a file that is damaged, names anything but data, or holds no weights.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == b"PK\x03\x04"
        content, spans = _read_archive(path) if zipped else _read_legacy(path)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except Refused as error:
        raise UserError(
            f"{path} was not loaded: it holds {error}, where only tensors, numbers, texts and "
            "plain containers are read; nothing in it was executed. Expected "
            "torch.save(model.state_dict(), ...)"
        ) from None
    except Exception as error:  # a damaged pickle can make the reader raise anything
        raise UserError(
            f"{path} is not a weights-only PyTorch file and was not loaded: "
            f"{one_line(error, 100) or type(error).__name__}; nothing in it was executed. "
            "Expected torch.save(model.state_dict(), ...)"
        ) from None
    weights, notes = _unwrap(content, path)
    return {name: _stored(path, name, tensor, spans) for name, tensor in weights.items()}, notes


# The two kinds of files --------------------------------------------------------------------


def _read_archive(path: Path) -> tuple[Any, dict[str, _Span]]:
    """(the pickled value, storage's key -> its bytes in the file)."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = archive.infolist()
        if sum(m.file_size for m in members) > path.stat().st_size or any(
            m.compress_type or m.flag_bits & 1 for m in members
        ):
            raise UserError(
                f"{path} is compressed or encrypted, which PyTorch's own files are not; refused"
            )
        by_name = {m.filename: m for m in members}
        root = next(n for n in by_name if n.endswith("data.pkl")).removesuffix("data.pkl")
        if by_name[f"{root}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise Refused("a pickle larger than a checkpoint of this family has")
        if f"{root}byteorder" in by_name and archive.read(f"{root}byteorder") != b"little":
            raise Refused("numbers of a big-endian machine")
        content, _ = read_pickle(BytesIO(archive.read(f"{root}data.pkl")))
        spans = {}
        for name, member in by_name.items():
            if name.startswith(f"{root}data/"):
                file.seek(member.header_offset + 26)  # the lengths of the name and the extra field
                lengths = np.frombuffer(file.read(4), "<u2")
                start = member.header_offset + 30 + int(lengths.sum())
                spans[name.removeprefix(f"{root}data/")] = (start, start + member.file_size)
    return content, spans


def _read_legacy(path: Path) -> tuple[Any, dict[str, _Span]]:
    """As `_read_archive`: magic number, version, machine, value, keys; then the storages."""
    with path.open("rb") as file:
        data = BytesIO(file.read(MAX_PICKLE_BYTES))
        magic, _, machine = (read_pickle(data)[0] for _ in range(3))
        if magic != _LEGACY_MAGIC:
            raise ValueError("it does not begin as torch.save writes it")
        if not machine["little_endian"]:
            raise Refused("numbers of a big-endian machine")
        content, storages = read_pickle(data)
        keys, _ = read_pickle(data)
        spans, at, size = {}, data.tell(), path.stat().st_size
        for key in keys:
            storage = storages[key]
            start = at + 8  # after its count
            at = start + storage.count * _itemsize(storage.kind)
            spans[key] = (start, at)
        if at > size:
            raise ValueError(f"it ends after {size} bytes of {at}")
    return content, spans


def _itemsize(kind: str) -> int:
    return np.dtype(DTYPES[kind]).itemsize if kind else 1


# What is in them ---------------------------------------------------------------------------


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """(the state dict in what was saved, notes): the dictionary that holds the first block."""
    dictionaries = list(_dictionaries(content))
    found = [(keys, d) for keys, d in dictionaries if any(n.endswith(_ANCHOR) for n in _names(d))]
    if not found:  # the entries of another network are named in the error
        found = [(keys, d) for keys, d in dictionaries if any(_names(d))][:1]
    if not found:
        raise UserError(
            f"{path} holds {type(content).__name__}, expected a state dict (names and tensors), "
            "alone or inside other dictionaries"
        )
    best = min(_rank(keys) for keys, _ in found)
    chosen = [(keys, d) for keys, d in found if _rank(keys) == best]
    if len(chosen) > 1:
        places = listed([".".join(keys) for keys, _ in chosen])
        raise UserError(f"{path} holds several networks, under {places}; save the one to be used")
    keys, state = chosen[0]
    notes = []
    if keys:
        others = sorted(str(k) for k in content if str(k) != keys[0])
        beside = f"; left out what lies beside: {listed(others)}" if others else ""
        notes.append(f"read the weights under {'.'.join(keys)!r}{beside}")
    weights = {str(n): t for n, t in state.items() if isinstance(t, Tensor)}
    others = [str(n) for n, t in state.items() if not isinstance(t, Tensor)]
    if others:
        notes.append(f"left out entries that are no tensors: {listed(others)}")
    return weights, notes


def _dictionaries(content: Any) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every dictionary in nested dictionaries, each once, outermost first, with its keys."""
    level: list[tuple[tuple[str, ...], Any]] = [((), content)]
    seen: set[int] = set()
    for _ in range(_MAX_DEPTH):
        inner = []
        for keys, value in level:
            if isinstance(value, dict) and id(value) not in seen:
                seen.add(id(value))
                yield keys, value
                inner += [((*keys, str(k)), v) for k, v in value.items() if isinstance(v, dict)]
        level = inner


def _names(dictionary: Mapping[Any, Any]) -> Iterator[str]:
    """The names of the tensors in a dictionary itself."""
    return (str(name) for name, value in dictionary.items() if isinstance(value, Tensor))


def _rank(keys: tuple[str, ...]) -> tuple[bool, bool, bool]:
    """Averaged weights first, as in timm; then those under a usual key; an optimizer's last."""
    place = ".".join(keys).lower()
    usual = not keys or keys[-1] in _USUAL
    return ("optim" in place or "moment" in place, "ema" not in place, not usual)


def _stored(path: Path, name: str, tensor: Tensor, spans: Mapping[str, _Span]) -> Stored:
    """Where the numbers of a tensor are. Raises UserError if they are not there."""
    storage = tensor.storage
    if storage is None or storage.key not in spans:
        raise UserError(f"{path}: entry {name!r} is {tensor.problem or 'without its numbers'}")
    start, stop = spans[storage.key]
    size = _itemsize(tensor.kind)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True))
    extent = 0 if 0 in tensor.shape else (1 + last) * size
    start += tensor.offset * size
    if start + extent > stop:
        raise UserError(f"{path}: entry {name!r} is larger than what the file holds of it")
    steps = [math.prod(tensor.shape[i + 1 :]) for i in range(len(tensor.shape))]
    # The step of a dimension of one element has no meaning.
    dims = zip(tensor.shape, tensor.strides, steps, strict=True)
    plain = all(count == 1 or step == usual for count, step, usual in dims)
    strides = None if plain else tensor.strides
    return Stored(path, tensor.kind, tensor.shape, ((start, start + extent),), strides)
