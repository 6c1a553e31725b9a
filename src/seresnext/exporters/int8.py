"""Post-training int8 quantisation by NNCF; blocks that cost too much accuracy stay in float."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

# NNCF sends usage statistics over the network unless this is set before it is imported.
os.environ.setdefault("NNCF_CI", "1")

import nncf

from ..errors import UserError
from ..model.spec import InputSpec, ModelSpec
from ..runtimes.artifact import CAM_NAME, INPUT_NAME
from ..runtimes.normalise import normalise

_log = logging.getLogger(__name__)

M = TypeVar("M")
"""An openvino.Model or an onnx.ModelProto; NNCF takes both."""

RANKING_CALIBRATION = 32
"""Images that give the ranges while blocks are ranked; the final ranges come from all."""

_OVERFLOW_FIX = nncf.OverflowFix.ENABLE
"""Weights use half of the int8 range: CPUs without VNNI add pairs of products in 16 bits, which
would overflow there and give other logits than on the machine that made the comparison."""


@dataclass(frozen=True)
class Quantised(Generic[M]):
    model: M
    in_float: tuple[str, ...] = ()
    """Blocks left in float because they cost accuracy, the largest error first."""
    drop: float = 0.0
    """Points lost against the float model, 0 to 100."""


@dataclass(frozen=True)
class Trial(Generic[M]):
    """How a candidate is measured."""

    logits: Callable[[M], NDArray[Any]]
    """A candidate's float32 logits [N, K] on the trial images."""
    reference: NDArray[Any]
    """The float network's logits on them."""
    score: Callable[[NDArray[Any]], float]
    """Points of such logits, 0 to 100."""


def quantise(
    model: M,
    spec: ModelSpec,
    calibration: NDArray[Any],
    trial: Trial[M],
    max_drop: float,
) -> Quantised[M]:
    """Weights (per channel) and activations (per tensor) to int8, ranges from `calibration`.

    calibration: uint8 [N, S, S, 3]. The squeeze-and-excitation convolutions stay in float: their
    input is one pixel, so they take hardly any time. If the drop is more than `max_drop` points,
    each block is tried in int8 alone, and as few blocks as possible go back to float, those with
    the largest error in the logits first. Raises UserError if only a wholly float network is good
    enough.
    """
    before = trial.score(trial.reference)

    def attempt(what: str, in_float: Sequence[str], images: NDArray[Any]) -> tuple[M, NDArray[Any]]:
        _log.info("int8: %s, ranges from %d images", what, len(images))
        candidate = to_int8(model, images, spec.input, in_float)
        return candidate, trial.logits(candidate)

    whole, logits = attempt("the whole network", (), calibration)
    drop = before - trial.score(logits)
    if drop <= max_drop:
        return Quantised(whole, (), drop)

    blocks = ["conv1", *(b.name for b in spec.architecture.blocks()), "fc"]
    errors = {}
    for number, block in enumerate(blocks, 1):
        what = f"{drop:.2f} points lost; {block} alone ({number} of {len(blocks)})"
        others = [b for b in blocks if b != block]
        _, logits = attempt(what, others, calibration[:RANKING_CALIBRATION])
        errors[block] = float(np.square(logits - trial.reference).sum())
    ranked = sorted(blocks, key=lambda block: -errors[block])

    best: Quantised[M] | None = None
    fewest, most = 1, len(blocks) - 1
    while fewest <= most:
        count = (fewest + most) // 2
        candidate, logits = attempt(f"all but {count} blocks", ranked[:count], calibration)
        drop = before - trial.score(logits)
        if drop <= max_drop:
            best, most = Quantised(candidate, tuple(ranked[:count]), drop), count - 1
        else:
            fewest = count + 1
    if best is None:
        raise UserError(
            f"int8 costs more than {max_drop:g} points whichever blocks stay in float; allow more "
            "with --max-drop, calibrate on more images, or export fp16"
        )
    return best


def to_int8(model: M, images: NDArray[Any], inputs: InputSpec, in_float: Sequence[str]) -> M:
    """Quantise all but the blocks `in_float`, with ranges from `images`, uint8 [N, S, S, 3]."""

    def feed(image: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {INPUT_NAME: normalise(image[None], inputs)}

    patterns = [rf"{CAM_NAME}(\..*)?", *_patterns(in_float)]
    ignored = nncf.IgnoredScope(patterns=patterns, validate=False)
    with _quiet():
        quantised: M = nncf.quantize(
            model,
            nncf.Dataset(images, feed),
            subset_size=len(images),
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=_OVERFLOW_FIX),
        )
    return quantised


def _patterns(blocks: Iterable[str]) -> Iterator[str]:
    """Regular expressions for the names of every node of these blocks (see `graph.walk`)."""
    for block in blocks:
        yield r"fc|logits|features" if block == "fc" else rf"{re.escape(block)}(\..*)?"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress NNCF's log and progress bars."""
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
