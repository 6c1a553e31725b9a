"""The report as one HTML file: no script, no request, nothing outside the file."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..significance import interval_text
from .charts import Axis, Line, Mark, escape, legend, line_chart, matrix_chart, reliability_chart
from .history import History, different_settings
from .results import BINS, Results

REPORT_FILE = "report.html"
_MATRIX_CLASSES = 40
"""A larger confusion matrix is a picture of one pixel a cell."""
_TABLE_ROWS = 30
"""A longer table is folded."""


@dataclass(frozen=True)
class Example:
    """One image with the answer for it; pictures are JPEG files."""

    file: str
    label: str
    predicted: str
    confidence: float
    own: float
    picture: bytes
    overlay: bytes | None = None
    """The class activation map of the predicted class over the image."""


@dataclass(frozen=True)
class Gates:
    """Mean squeeze-and-excitation gates of one block."""

    block: str
    means: dict[str, NDArray[np.float32]]
    """Class -> one value a channel; the last one is of all classes."""


@dataclass(frozen=True)
class Content:
    """All that a report shows."""

    title: str
    note: str
    """What was evaluated, in a sentence."""
    histories: Sequence[History] = ()
    results: Results | None = None
    mistakes: Sequence[Example] = ()
    uncertain: Sequence[Example] = ()
    unread: Sequence[str] = ()
    gates: Sequence[Gates] = ()


def render(content: Content) -> str:
    """Return the HTML page."""
    sections = [
        _training(content.histories) if content.histories else "",
        _result(content) if content.results else "",
        _gates(content.gates) if content.gates else "",
    ]
    return document(content.title, content.note, "\n".join(s for s in sections if s))


def document(title: str, note: str, body: str) -> str:
    """Return an HTML page: a heading, a sentence below it, and `body`, which is HTML."""
    style = resources.files(__package__).joinpath("style.css").read_text()
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<h1>{escape(title)}</h1>\n<p class="faint">{escape(note)}</p>\n{body}'
        "\n<footer>Written by seresnext.</footer>\n</body>\n</html>\n"
    )


# The run -----------------------------------------------------------------------------------


def _training(histories: Sequence[History]) -> str:
    several = len(histories) > 1
    parts = ["<section><h2>Training</h2>", _summary_table(histories)]
    if several:
        parts.append(legend([(h.name, i, False) for i, h in enumerate(histories)]))
        parts.append('<p class="faint">Solid lines are validation, dashed ones training.</p>')
    else:
        parts.append(legend([("validation", 0, False), ("training", 0, True)]))
    marks = [
        Mark(h.epoch(step), f"{h.name}: step {step} was not finite and changed nothing", "bad")
        for h in histories
        for step in h.bad_steps[:100]
    ]
    marks += [
        Mark(h.epoch(step), f"{h.name}: went on after step {step}", "resume")
        for h in histories
        for step in h.resumed
    ]
    charts = (
        ("Loss", Axis("loss", wide=True), ("val/loss", "train/loss")),
        ("Top-1", Axis("top-1", percent=True), ("val/top1", "train/top1")),
        ("Top-5", Axis("top-5", percent=True), ("val/top5",)),
        ("Learning rate", Axis("learning rate", zero=True), ("lr",)),
        ("Images per second", Axis("images per second", zero=True), ("images_per_second",)),
        ("Waiting for data", Axis("share of time", percent=True, zero=True), ("data_wait",)),
    )
    parts.append('<div class="charts">')
    for title, axis, fields in charts:
        lines = [
            Line(f"{h.name} {field}", *h.series(field), i, field.startswith("train/"))
            for i, h in enumerate(histories)
            for field in fields
            if h.series(field)[0]
        ]
        if lines:
            chart = line_chart(lines, Axis("epoch", zero=True), axis, marks)
            parts.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    parts.append("</div>")
    if marks:
        bad, resumed = (sum(m.kind == kind for m in marks) for kind in ("bad", "resume"))
        parts.append(
            f'<p class="faint">Vertical lines: {resumed} resumes (dotted), {bad} steps that were '
            "not finite and changed nothing (solid).</p>"
        )
    if several:
        parts.append(_settings_table(histories))
    return "".join([*parts, "</section>"])


def _summary_table(histories: Sequence[History]) -> str:
    heads = ("run", "steps", "best top-1", "final top-1", "final loss", "training loss", "images/s")
    forms = ("{:.0f}", "{:.2%}", "{:.2%}", "{:.4f}", "{:.4f}", "{:.1f}")
    rows = []
    for history in histories:
        values = zip(forms, history.summary().values(), strict=True)
        cells = ["–" if v is None else form.format(v) for form, v in values]
        rows.append([escape(history.name), *cells])
    return html_table(heads, rows)


def _settings_table(histories: Sequence[History]) -> str:
    different = different_settings(histories)
    if not different:
        return "<p>The runs have equal settings.</p>"
    rows = [
        [escape(name), *(escape("–" if v is None else str(v)) for v in values)]
        for name, values in different.items()
    ]
    heads = ("setting", *(escape(h.name) for h in histories))
    return f"<h3>Settings that differ</h3>{html_table(heads, rows)}"


# The result --------------------------------------------------------------------------------


def _result(content: Content) -> str:
    results = content.results
    assert results is not None
    figures = results.summary()
    within = {
        name: f", 95 %: {text}"
        if (text := interval_text(figures[name], len(results.index)))
        else ""
        for name in ("top1", "top5")
    }
    tiles = (
        (f"{figures['top1']:.2%}", f"top-1{within['top1']}"),
        (f"{figures['top5']:.2%}", f"top-5{within['top5']}"),
        (f"{figures['loss']:.4f}", "cross-entropy"),
        (f"{figures['calibration_error']:.2%}", "calibration error"),
        (f"{figures['images']:.0f}", "images"),
        (f"{figures['unread']:.0f}", "unreadable"),
    )
    parts = [
        "<section><h2>Result</h2>",
        '<div class="tiles">',
        *(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles),
        "</div>",
        _confusion(results),
        _class_table(results),
        _calibration(results),
        _gallery("Surest mistakes", content.mistakes),
        _gallery("Right, but least certain", content.uncertain),
    ]
    if content.unread:
        items = "".join(f"<li>{escape(name)}</li>" for name in content.unread)
        parts.append(f"<h3>Images that could not be read</h3><ul>{items}</ul>")
    return "".join([*parts, "</section>"])


def _confusion(results: Results) -> str:
    pairs = results.confused_pairs(15)
    if not pairs:
        return "<p>No image was taken for another class.</p>"
    rows = [
        [
            escape(p.label),
            f'<span class="name">{escape(p.predicted)}</span>',
            str(p.images),
            f"{p.share:.1%}",
        ]
        for p in pairs
    ]
    table = html_table(("class", "taken for", "images", "of the class"), rows)
    counts = results.confusion()
    if len(counts) <= _MATRIX_CLASSES:
        picture = matrix_chart(counts, results.class_names)
    else:
        picture = _matrix_picture(counts)
    return (
        f'<div class="halves"><div><h3>Most often confused</h3>{table}</div>'
        '<div><h3>Confusion matrix</h3><p class="faint">A row is a class, a column what its images '
        f"were taken for.</p>{picture}</div></div>"
    )


def _matrix_picture(counts: NDArray[np.int64]) -> str:
    """One pixel a cell, by share of the row; mistakes are drawn on a logarithmic scale."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    strength = np.where(share > 0, np.clip(1 + np.log10(np.maximum(share, 1e-9)) / 2.5, 0.15, 1), 0)
    colour = np.where(np.eye(len(counts), dtype=bool)[..., None], [26, 127, 55], [220, 80, 0])
    pixels = np.rint(255 - strength[..., None] * (255 - colour)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f'<img class="matrix" alt="confusion matrix" src="{data_uri(file.getvalue(), "png")}">'


def _class_table(results: Results) -> str:
    scores = sorted(results.class_scores(), key=lambda s: (s.images == 0, s.f1))
    rows = [
        [escape(s.name), str(s.images), f"{s.precision:.1%}", f"{s.recall:.1%}", f"{s.f1:.1%}"]
        for s in scores
    ]
    heads = ("class", "images", "precision", "recall", "F1")
    table = html_table(heads, rows[:_TABLE_ROWS])
    if len(rows) > _TABLE_ROWS:
        rest = html_table(heads, rows[_TABLE_ROWS:])
        table += (
            f"<details><summary>{len(rows) - _TABLE_ROWS} more classes</summary>{rest}</details>"
        )
    return f"<h3>Classes, the weakest first</h3>{table}"


def _calibration(results: Results) -> str:
    bins = results.calibration()
    chart = reliability_chart([b.confidence for b in bins], [b.accuracy for b in bins], 1 / BINS)
    return (
        '<h3>Calibration</h3><p class="faint">How often answers of a given probability are right. '
        "Bars below the diagonal: the model is surer than it should be.</p>"
        f'<figure class="single">{chart}</figure>'
    )


def _gallery(title: str, examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    cards = []
    for e in examples:
        pictures = f'<img alt="" src="{data_uri(e.picture, "jpeg")}">'
        if e.overlay:
            pictures += f'<img alt="class activation map" src="{data_uri(e.overlay, "jpeg")}">'
        said = f"<b>{escape(e.predicted)}</b> {e.confidence:.1%}"
        if e.label != e.predicted:
            said += f"<br>is <b>{escape(e.label)}</b>, {e.own:.1%}"
        cards.append(
            f'<div class="card"><div>{pictures}</div>{said}<br>'
            f'<span class="faint">{escape(e.file)}</span></div>'
        )
    return f'<h3>{title}</h3><div class="gallery">{"".join(cards)}</div>'


# Why ---------------------------------------------------------------------------------------


def _gates(gates: Sequence[Gates]) -> str:
    names = list(gates[0].means)
    parts = [
        "<section><h2>Squeeze and excitation</h2>",
        '<p class="faint">The mean gate (0 to 1) of every channel, in the last block of each '
        "stage, for some classes; channels are in the order of their mean over all classes. Where "
        "the lines part, the block treats the classes differently (compare figure 5 of Hu et al. "
        "2018).</p>",
        legend([(name, i, False) for i, name in enumerate(names)]),
        '<div class="charts">',
    ]
    for gate in gates:
        order = np.argsort(gate.means[names[-1]])
        lines = [
            Line(name, range(len(values)), values[order].tolist(), i)
            for i, (name, values) in enumerate(gate.means.items())
        ]
        chart = line_chart(lines, Axis("channel"), Axis("mean gate"))
        parts.append(f"<figure><figcaption>{escape(gate.block)}</figcaption>{chart}</figure>")
    return "".join([*parts, "</div></section>"])


# Pieces ------------------------------------------------------------------------------------


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table; its cells are HTML already."""
    head = "".join(f"<th>{h}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def data_uri(data: bytes, kind: str) -> str:
    """Return the address of a picture that is in the page itself."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
