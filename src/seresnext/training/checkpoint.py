"""Training checkpoints: a folder that is there whole or not at all, checked byte by byte.

    RUN/checkpoints/step-00001234/
        model.safetensors           weights and BN statistics
        optimizer.SLOT.safetensors  state of the optimizer, such as optimizer.momentum
        ema.safetensors             averaged weights (with EMA)
        state.json                  step, config, classes, fingerprint, scalars, best metric
        manifest.json               SHA-256 and size of each file above

Written into a temporary folder in the same place, every file synced, renamed, the parent folder
synced: a crash or a power loss at any moment leaves the previous checkpoints as they were. Reading
checks sizes and hashes first (safetensors does not detect a flipped bit) and never runs code.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import NDArray

from ..errors import UserError
from ..files import read_json, sync_to_disk, to_json
from ..tensors import list_safetensors, write_safetensors

T = TypeVar("T")

MANIFEST = "manifest.json"
STATE = "state.json"
FORMAT = 2
"""Format 1, of version 0.1, has `momentum.safetensors` in place of `optimizer.momentum`."""
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY = ".saving-"
_TENSORS = ".safetensors"


@dataclass
class Checkpoint:
    """A checkpoint in memory: JSON state and named groups of tensors."""

    step: int
    """Steps done; the run continues with step number `step`."""
    state: dict[str, Any]
    tensors: dict[str, dict[str, NDArray[Any]]]
    """Group (`model`, `ema`, `optimizer.SLOT`) -> canonical name -> array."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint at `step`."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=lambda p: int(p.name[5:]))


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder`; return its path.

    Raises UserError when it cannot be written (disk full, no permission); then the temporary folder
    is removed and earlier checkpoints are unchanged.
    """
    final = checkpoint_path(folder, checkpoint.step)
    temporary = folder / f"{_TEMPORARY}{final.name}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(temporary, checkpoint)
        if final.exists():  # the same step again, after a resume from an older checkpoint
            shutil.rmtree(final)
        os.replace(temporary, final)
        sync_to_disk(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot save checkpoint {final}: {error.strerror or error}; "
            "earlier checkpoints are untouched. Free some space and run the same command again"
        ) from error
    return final


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    entries = {}
    for group, tensors in checkpoint.tensors.items():
        if tensors:
            name = group + _TENSORS
            write_safetensors(folder / name, tensors)
            entries[name] = _synced(folder / name)
    (folder / STATE).write_text(to_json(checkpoint.state, indent=1))
    entries[STATE] = _synced(folder / STATE)
    manifest = {"format": FORMAT, "step": checkpoint.step, "files": entries}
    (folder / MANIFEST).write_text(to_json(manifest, indent=1))
    _synced(folder / MANIFEST)
    sync_to_disk(folder)


def _synced(path: Path) -> dict[str, str | int]:
    """Wait until a file is on the disk; return its entry in the manifest."""
    sync_to_disk(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint of format 1 or 2. Raises UserError for anything else."""
    manifest = read_json(path / MANIFEST)
    try:
        version, step, files = manifest["format"], int(manifest["step"]), dict(manifest["files"])
        entries = {name: (str(e["sha256"]), int(e["bytes"])) for name, e in files.items()}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise UserError(f"checkpoint {path}: {MANIFEST} is not a manifest") from None
    if version not in (1, FORMAT):
        raise UserError(
            f"checkpoint {path} has format {version}, this version reads 1 and {FORMAT}"
        )
    for name, (digest, size) in entries.items():
        if name != os.path.basename(name) or "\0" in name:
            raise UserError(f"checkpoint {path}: the manifest names a file outside: {name!r}")
        _verify(path / name, digest, size)
    if STATE not in entries:
        raise UserError(f"checkpoint {path} has no {STATE}")
    state = read_json(path / STATE, "checkpoint file")
    tensors = {
        name.removesuffix(_TENSORS): {
            entry: stored.read() for entry, stored in list_safetensors(path / name)[0].items()
        }
        for name in entries
        if name.endswith(_TENSORS)
    }
    if version == 1 and "momentum" in tensors:
        tensors["optimizer.momentum"] = tensors.pop("momentum")
    return Checkpoint(step, state, tensors)


def _verify(path: Path, digest: str, size: int) -> None:
    try:
        found = path.stat().st_size
        if found != size:
            raise UserError(f"checkpoint file {path} has {found} bytes, its manifest says {size}")
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError as error:
        raise UserError(f"cannot read checkpoint file {path}: {error.strerror}") from None
    if not same:
        raise UserError(f"checkpoint file {path} is damaged: its SHA-256 is not the manifest's")


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that verifies, and why newer ones were skipped.

    None where there is no checkpoint. Raises UserError when there are some and none verifies.
    """
    problems: list[str] = []
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), problems
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError(f"none of the checkpoints in {folder} can be read ({problems[0]})")
    return None, problems


def from_newest_state(checkpoints: list[Path], read: Callable[[dict[str, Any]], T]) -> T | None:
    """Return what `read` finds in the state of the newest checkpoint; None without one.

    A damaged checkpoint is skipped: older ones are of the same run. Nothing is verified.
    """
    for checkpoint in reversed(checkpoints):
        with contextlib.suppress(UserError, ValueError, KeyError, TypeError):
            return read(read_json(checkpoint / STATE))
    return None


def clean(folder: Path, keep: int, best_step: int | None) -> None:
    """Remove temporary folders of killed runs and all but the newest `keep` and the best."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in list_checkpoints(folder)[:-keep]:
        if best_step is None or path != checkpoint_path(folder, best_step):
            # The manifest first: a folder that is removed in part is not taken for a checkpoint.
            with contextlib.suppress(OSError):
                (path / MANIFEST).unlink()
            shutil.rmtree(path, ignore_errors=True)
