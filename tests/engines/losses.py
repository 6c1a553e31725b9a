"""Losses of rows in float64, straight from the papers, for both engines' tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from seresnext.config import LossConfig

CASES: dict[str, dict[str, Any]] = {
    "cross-entropy": {},
    "off target": {"smoothing_off_target": True},
    "hard": {"label_smoothing": 0.0},
    "weights": {"class_weights": (0.5, 1.0, 2.5, 0.25)},
    "focal": {"focal_gamma": 2.0, "class_weights": (0.5, 1.0, 2.5, 0.25)},
    "binary": {"kind": "binary"},
    "binary, threshold": {"kind": "binary", "threshold": 0.2},
    "binary, focal": {
        **{"kind": "binary", "focal_gamma": 1.5, "label_smoothing": 0.0},
        "class_weights": (0.5, 1.0, 2.5, 0.25),
    },
}


class Rows(NamedTuple):
    """Logits of rows whose labels are mixed."""

    logits: np.ndarray
    labels: np.ndarray
    mixed_labels: np.ndarray
    mix: np.ndarray


def random_rows(rows: int = 12, classes: int = 4) -> Rows:
    rng = np.random.default_rng(0)
    labels, mixed_labels = rng.integers(0, classes, (2, rows)).astype(np.int32)
    mix = rng.uniform(0, 1, rows).astype(np.float32)
    mix[: rows // 3] = 1
    logits = rng.normal(0, 3, (rows, classes)).astype(np.float32)
    logits[0] = (80, -80, 0, 0)
    return Rows(logits, labels, mixed_labels, mix)


def expected_distillation(
    logits: np.ndarray, teacher: np.ndarray, temperature: float
) -> np.ndarray:
    """T^2 KL(teacher, student) of each row (arXiv:1503.02531), float64."""
    log_p, log_q = (
        x - np.logaddexp.reduce(x, axis=1, keepdims=True)
        for x in (np.float64(teacher) / temperature, np.float64(logits) / temperature)
    )
    return temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum(1)


def expected_losses(rows: Rows, loss: LossConfig) -> np.ndarray:
    """The loss of each row: arXiv:1512.00567 (smoothing), 1708.02002 (focal), 2110.00476 (binary
    targets), float64."""
    x, (n, classes) = rows.logits.astype(np.float64), rows.logits.shape
    share = loss.label_smoothing
    target = np.zeros((n, classes))
    for labels, weight in ((rows.labels, rows.mix), (rows.mixed_labels, 1 - rows.mix)):
        one_hot = np.eye(classes)[labels]
        even = (1 - one_hot) / (classes - 1) if loss.smoothing_off_target else 1 / classes
        target += weight[:, None] * ((1 - share) * one_hot + share * even)
    if loss.threshold is not None:
        target = (target > loss.threshold).astype(np.float64)
    weights, gamma = np.array(loss.class_weights or 1.0), loss.focal_gamma
    if loss.kind == "cross-entropy":
        log_p = x - np.logaddexp.reduce(x, axis=1, keepdims=True)
        return -(weights * target * (1 - np.exp(log_p)) ** gamma * log_p).sum(1)
    log_p, log_q = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    present = weights * target * np.exp(log_q) ** gamma * log_p
    absent = (1 - target) * np.exp(log_p) ** gamma * log_q
    return -(present + absent).mean(1)
