"""Training checkpoints: a folder that is there whole or not at all, checked byte by byte.

    RUN/checkpoints/step-00001234/
        model.safetensors       weights and BN statistics
        ema.safetensors         averaged weights (with EMA)
        optimizer.SLOT.safetensors  state of the optimizer, such as optimizer.momentum
        state.json              step, config, classes, fingerprint, scalars, best metric
        manifest.json           SHA-256 and size of each file above

Written into a temporary folder beside, every file synced, renamed, the parent folder synced: a
crash or a power loss at any moment leaves the previous checkpoints as they were. Reading checks
sizes and hashes first (safetensors would not notice a flipped bit) and never runs code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from ..errors import UserError

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 2
"""Format 1, of version 0.1, has `momentum.safetensors` in place of `optimizer.momentum`."""
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".saving-"
MAX_JSON_BYTES = 64 << 20
"""A state or manifest above this is refused unread: ImageNet's class names take 40 kB."""


@dataclass
class Checkpoint:
    """A checkpoint in memory: JSON state and named groups of tensors."""

    step: int
    """Steps done; the run goes on with step number `step`."""
    state: dict[str, Any]
    tensors: dict[str, dict[str, np.ndarray]]
    """Group (`model`, `ema`, `optimizer.SLOT`) -> canonical name -> array."""


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints of a run, oldest first. Temporary folders are not among them."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder`; return its path.

    Raises UserError when it cannot be written (disk full, no permission); what was there before
    stays as it was and the temporary folder is removed.
    """
    final = checkpoint_path(folder, checkpoint.step)
    temporary = folder / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        manifest: dict[str, Any] = {"format": FORMAT, "step": checkpoint.step, "files": {}}
        files = {
            f"{group}.safetensors": _safetensors(tensors)
            for group, tensors in checkpoint.tensors.items()
            if tensors
        }
        files[STATE] = [memoryview(json.dumps(checkpoint.state, indent=1).encode())]
        for name, parts in files.items():
            manifest["files"][name] = _write_synced(temporary / name, parts)
        _write_synced(temporary / MANIFEST, [memoryview(json.dumps(manifest, indent=1).encode())])
        _sync_folder(temporary)
        if final.exists():  # the same step again, after a resume from an older checkpoint
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot save checkpoint {final}: {error.strerror or error}; "
            "earlier checkpoints are untouched. Free some space and run the same command again"
        ) from error
    return final


def _safetensors(tensors: dict[str, np.ndarray]) -> list[memoryview]:
    """The parts of a safetensors file: the length of a JSON header, the header, the tensors.

    Written by hand because the library's `save` copies every tensor twice, holding the
    interpreter meanwhile: a quarter of a second for 100 MB, taken from training.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, array in tensors.items():
        assert array.dtype == np.float32, f"{name} is {array.dtype}"
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    data = [np.ascontiguousarray(a).reshape(-1).view(np.uint8).data for a in tensors.values()]
    return [memoryview(len(text).to_bytes(8, "little") + text), *data]


def _write_synced(path: Path, parts: list[memoryview]) -> dict[str, str | int]:
    """Write a file to the disk itself; its entry in the manifest."""
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": digest.hexdigest(), "bytes": sum(part.nbytes for part in parts)}


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint. Raises UserError saying what is wrong with it."""
    manifest = _read_json(path / MANIFEST)
    try:
        version, step, files = manifest["format"], manifest["step"], dict(manifest["files"])
        entries = {name: (str(e["sha256"]), int(e["bytes"])) for name, e in files.items()}
    except (KeyError, TypeError, ValueError):
        raise UserError(f"checkpoint {path}: {MANIFEST} is not a manifest") from None
    if version not in (1, FORMAT):
        raise UserError(
            f"checkpoint {path} has format {version}, this version reads 1 and {FORMAT}"
        )
    contents: dict[str, bytes] = {}
    for name, (digest, size) in entries.items():
        if name != os.path.basename(name):
            raise UserError(f"checkpoint {path}: the manifest names a file outside: {name!r}")
        contents[name] = _read_verified(path / name, digest, size)
    if STATE not in contents:
        raise UserError(f"checkpoint {path} has no {STATE}")
    try:
        tensors = {
            name.removesuffix(".safetensors"): load(data)
            for name, data in contents.items()
            if name.endswith(".safetensors")
        }
        state = json.loads(contents[STATE])
    except (SafetensorError, ValueError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {error}") from None
    if version == 1 and "momentum" in tensors:
        tensors["optimizer.momentum"] = tensors.pop("momentum")
    return Checkpoint(step=int(step), state=state, tensors=tensors)


def _read_verified(path: Path, digest: str, size: int) -> bytes:
    try:
        found = path.stat().st_size
        if found != size:
            raise UserError(f"checkpoint file {path} has {found} bytes, its manifest says {size}")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint file {path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise UserError(f"checkpoint file {path} is damaged: its SHA-256 is not the manifest's")
    return data


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} is larger than {MAX_JSON_BYTES} bytes; refused")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and why newer ones were passed over.

    Raises UserError when there are checkpoints and none verifies: to start anew in their place
    is for the user to decide.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(
            f"none of the checkpoints in {folder} can be read ({problems[0]}); choose another "
            "--out, or remove that folder to start anew in this one"
        )
    return None, problems


def clean(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove temporary folders of killed runs and all but the newest `keep` and the best."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in list_checkpoints(folder)[:-keep]:
        if best_step is None or path != checkpoint_path(folder, best_step):
            # The manifest goes first: a folder half removed is not mistaken for a checkpoint.
            with contextlib.suppress(OSError):
                (path / MANIFEST).unlink()
            shutil.rmtree(path, ignore_errors=True)
