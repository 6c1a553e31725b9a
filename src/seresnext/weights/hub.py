"""Models of the Hugging Face hub as local folders, through huggingface_hub (extra `hub`)."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from pathlib import Path

from ..errors import UserError, one_line
from ..frameworks import load_module
from ..install import install_command

PUBLISHED = {
    "seresnext26d_32x4d": "timm/seresnext26d_32x4d.bt_in1k",
    "seresnext50_32x4d": "timm/seresnext50_32x4d.racm_in1k",
    "seresnext101_32x4d": "timm/seresnext101_32x4d.gluon_in1k",
    "seresnext101_64x4d": "timm/seresnext101_64x4d.gluon_in1k",
}
"""Network -> ImageNet weights that timm's authors publish."""

_NAME = re.compile(r"(?:hf:|(?=timm/))([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def local_copy(path: str | Path) -> Path:
    """Return `path`; for a name of the hub, the folder of its files in the hub's cache.

    Names are `hf:OWNER/NAME`, `timm/NAME` (unless such a path exists) and `...@REVISION`. Files
    that are in the cache need no network, and are compared with their SHA-256. Raises UserError.
    """
    match = _NAME.fullmatch(os.fspath(path))
    if not match or Path(path).exists():
        return Path(path)
    repo, revision = match.groups()
    settings = _download(repo, "config.json", revision)
    # The same revision for both files, even if the model changes in between.
    weights = _download(repo, "model.safetensors", settings.parent.name)
    _check(weights)
    return weights.parent


def advice(model: str) -> str:
    """Return how to get pretrained weights for a network of the family, also without a network."""
    if model not in PUBLISHED:
        return f"no weights are known for {model}; they are for --model {', '.join(PUBLISHED)}"
    repo = PUBLISHED[model]
    return f"--pretrained {repo} downloads some ({install_command('hub')}), or {_by_hand(repo)}"


def _by_hand(repo: str) -> str:
    return (
        f"on a machine with a network, save config.json and model.safetensors of "
        f"https://huggingface.co/{repo} in a folder, and give --pretrained FOLDER"
    )


def _download(repo: str, file: str, revision: str | None) -> Path:
    """The path of a file in the cache, where it is brought if need be. Raises UserError."""
    what = f"{repo} of the Hugging Face hub"
    hub, errors = (load_module(f"huggingface_hub{m}", "hub", what) for m in ("", ".errors"))
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # lines about each retry
    try:
        try:  # what was used once stays the same, and needs no network
            found = hub.hf_hub_download(repo, file, revision=revision, local_files_only=True)
        except errors.LocalEntryNotFoundError:
            found = hub.hf_hub_download(repo, file, revision=revision)
        return Path(found)
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{repo}: the hub cannot be reached, and {file} is not in its cache; {_by_hand(repo)}"
        ) from None
    except errors.EntryNotFoundError:
        raise UserError(
            f"{repo} on the hub has no {file}; expected a model of timm or ours"
        ) from None
    except Exception as error:  # of whatever library it speaks HTTP with
        at = f" at revision {revision}" if revision else ""
        raise UserError(f"cannot get {repo}{at} from the hub: {one_line(error)}") from None


def _check(file: Path) -> None:
    """Compare a file with its SHA-256, by which the cache names large files. Raises UserError."""
    blob = file.resolve()
    if _SHA256.fullmatch(blob.name):
        with blob.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        if found != blob.name:
            raise UserError(f"{blob} is damaged (its SHA-256 is {found}); remove it and try again")
