"""Reports: figures against scikit-learn, exact activation maps, hostile names, and the files."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from runs import evaluations, refused, run_cli, train_arguments, write_images
from seresnext.batch import Batch
from seresnext.report import build
from seresnext.report.charts import Axis, Line, line_chart, tick_step, ticks
from seresnext.report.history import History, different_settings
from seresnext.report.maps import overlay
from seresnext.report.page import Content, Example, Gates, render
from seresnext.report.results import Answers, Results

HOSTILE = '<script>alert("1")</script>\n\x1b[31m\u202egnp.exe\u2028&\'">'


def batch(labels: np.ndarray, first: int, mask: np.ndarray | None = None) -> Batch:
    rows = len(labels)
    return Batch(
        images=np.zeros((rows, 8, 8, 3), np.uint8),
        labels=labels,
        mixed_labels=labels,
        mix=np.ones(rows, np.float32),
        mask=np.ones(rows, bool) if mask is None else mask,
        index=np.arange(first, first + rows),
    )


def random_answers(classes: int = 7, images: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Logits with some skill, and labels; no image has the last class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, images).astype(np.int32)
    logits = rng.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += 1
    return logits, labels


def results_of(logits: np.ndarray, labels: np.ndarray) -> Results:
    answers = Answers(len(labels))
    answers.add(batch(labels, 0), logits)
    return answers.results(tuple(f"c{i}" for i in range(logits.shape[1])), None)


# Figures -----------------------------------------------------------------------------------


def test_scores_are_those_of_scikit_learn() -> None:
    logits, labels = random_answers()
    found, predicted = results_of(logits, labels), logits.argmax(1)
    classes = range(logits.shape[1])
    assert np.array_equal(
        found.confusion(), reference.confusion_matrix(labels, predicted, labels=classes)
    )
    expected = reference.precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0
    )
    scores = [(s.precision, s.recall, s.f1, s.images) for s in found.class_scores()]
    np.testing.assert_allclose(np.array(scores).T, np.array(expected), rtol=1e-12)
    probabilities = np.exp(logits.astype(float))
    probabilities /= probabilities.sum(1, keepdims=True)
    summary = found.summary()
    assert summary["top1"] == reference.accuracy_score(labels, predicted)
    assert summary["top5"] == reference.top_k_accuracy_score(labels, logits, k=5, labels=classes)
    assert summary["loss"] == pytest.approx(
        reference.log_loss(labels, probabilities, labels=classes)
    )
    pairs = Counter((int(a), int(b)) for a, b in zip(labels, predicted, strict=True) if a != b)
    assert [p.images for p in found.confused_pairs(5)] == [n for _, n in pairs.most_common(5)]


def test_calibration_error_by_its_definition() -> None:
    """Two bins: 3 answers at 0.9 of which 2 are right, 1 at 0.55 that is wrong."""
    two = np.array([0.9, 0.9, 0.9, 0.55])
    logits = np.column_stack([np.log(two), np.log(1 - two)]).astype(np.float32)
    found = results_of(logits, np.array([0, 0, 1, 1], np.int32))
    assert found.calibration_error() == pytest.approx(3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.55)
    assert [b.images for b in found.calibration()] == [1, 3]
    assert found.worst(9).tolist() == [2, 3]
    assert found.least_certain(1).tolist() == [0]


def test_ranks_and_masked_rows_add_up_to_the_whole() -> None:
    logits, labels = random_answers()
    parts = [Answers(500), Answers(500)]
    for rank, first in enumerate((0, 200)):
        rows = slice(first, (200, 500)[rank])
        parts[rank].add(batch(labels[rows], first), logits[rows])
    masked = batch(labels[:3], 0, np.zeros(3, bool))
    parts[1].add(masked, np.full((3, 7), np.nan, np.float32))

    def all_sum(values: np.ndarray) -> np.ndarray:
        other = parts[1].rows if values.ndim == 2 else parts[1].read
        return values + other

    whole, found = results_of(logits, labels), parts[0].results(("c",) * 7, all_sum)
    assert np.array_equal(found.index, whole.index)
    assert np.array_equal(found.confidence, whole.confidence)
    assert np.array_equal(found.predicted, whole.predicted)


# Pictures ----------------------------------------------------------------------------------


def test_the_overlay_is_brightest_where_the_map_is_largest() -> None:
    activation = np.zeros((4, 4), np.float32)
    activation[1, 2], activation[3, 0] = 3, -5
    heat = overlay(np.full((64, 64, 3), 100, np.uint8), activation).sum(2)
    assert divmod(int(heat.argmax()), 64) == pytest.approx((24, 40), abs=8)
    assert heat[60, 4] == heat[60, 60]  # what speaks against the class shows as nothing


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.031, 0.069, [0.04, 0.05, 0.06]),
        (-3, 2, [-3, -2, -1, 0, 1, 2]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high, tick_step(low, high)) == pytest.approx(expected)


def test_a_line_leaves_a_gap_where_values_are_not_finite() -> None:
    y = [1.0, 2.0, float("nan"), 3.0, float("inf"), 2.0]
    chart = line_chart([Line("loss", range(6), y)], Axis("epoch"), Axis("loss"))
    path = chart.split(' d="')[1].split('"')[0]
    assert (path.count("M"), path.count("L")) == (3, 1)
    assert "nan" not in chart


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        ([80.0, 2.0, float("nan"), 0.2], ["0.1", "1", "10", "100"]),
        ([0.8, 0.2], ["0.2", "0.4", "0.6", "0.8"]),
        ([80.0, 0.0], ["0", "20", "40", "60", "80"]),
    ],
    ids=["wide", "narrow", "zero has no logarithm"],
)
def test_an_axis_of_values_far_apart_is_logarithmic(y: list[float], labels: list[str]) -> None:
    chart = line_chart([Line("loss", range(len(y)), y)], Axis("epoch"), Axis("loss", wide=True))
    assert re.findall(r'class="end"[^>]*>([^<]*)<', chart) == labels


# The page ----------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, and the text outside of the style sheet."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_page(name: str) -> str:
    logits, labels = random_answers(3, 60)
    answers = Answers(61)
    answers.add(batch(labels, 0), logits)
    results = answers.results((name, f"{name}2", "plain"), None)
    example = Example(name, name, f"{name}2", 0.9, 0.1, b"jpeg", b"jpeg")
    records = [{"step": s, "epoch": s / 2, "train/loss": 1 / s, "val/top1": 0.5} for s in (1, 2)]
    runs = [
        History(name, {"run.x": name}, records, (1,), (1,)),
        History("b", {"run.x": "b"}, records, (), ()),
    ]
    gates = [Gates("layer1.0", {name: np.ones(4, np.float32), "all": np.zeros(4, np.float32)})]
    return render(Content(name, name, runs, results, [example], [example], [name], gates))


def test_names_cannot_change_the_page() -> None:
    plain, hostile = Page(hostile_page("name")), Page(hostile_page(HOSTILE))
    assert hostile.tags == plain.tags
    assert "script" not in plain.tags
    assert [n for n, _ in hostile.attributes] == [n for n, _ in plain.attributes]
    assert hostile.text.count('<script>alert("1")</script>') > 10
    for character in "\x1b\u202e\u2028":
        assert character not in hostile_page(HOSTILE)


def test_the_page_asks_for_nothing_outside_itself() -> None:
    page = Page(hostile_page("name"))
    sources = [value or "" for name, value in page.attributes if name in ("src", "href", "action")]
    assert len(sources) >= 4
    assert all(source.startswith("data:image/") for source in sources)
    assert "url(" not in hostile_page("name")
    assert "@import" not in hostile_page("name")


def test_a_thousand_classes_make_a_picture_and_a_folded_table() -> None:
    logits, labels = random_answers(1000, 300)
    content = Content("run", "", (), results_of(logits, labels))
    page = Page(render(content))
    assert page.tags["img"] == 1
    assert page.tags["details"] == 1
    assert len(render(content)) < 400_000


def test_settings_that_differ() -> None:
    runs = [
        History(n, {"optim.lr": lr, "run.out": n, "seed": 0}, [], (), ())
        for n, lr in (("a", 1), ("b", 2))
    ]
    assert different_settings(runs) == {"optim.lr": [1, 2]}


# Files -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_images(folder / "data")
    run_cli(*train_arguments(folder / "data", folder / "run", 8, 4, "--image-size", 64))
    return folder / "run"


def test_training_ends_with_a_report_of_the_shipped_model(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    result = json.loads((run / "result.json").read_text())
    assert f"{result['metrics']['top1']:.2%}" in page.text
    assert "13 images in 3 classes at 64 px" in page.text
    right = round(result["metrics"]["top1"] * 13)
    assert page.tags["svg"] == 6 + (right < 13) + 1 + 4  # curves, matrix, calibration, gates
    assert page.tags["img"] == 2 * (min(right, 12) + min(13 - right, 12))  # with activation maps


def test_report_gives_the_figures_of_evaluate(run: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "page.html", tmp_path / "figures.json"
    run_cli("report", run, "--out", out, "--json", figures)
    found = json.loads(figures.read_text())["result"]
    expected = json.loads(run_cli("evaluate", run, "--data", run.parent / "data", "--json").stdout)
    for name in ("top1", "top5", "images", "unread"):
        assert found[name] == expected[name], name
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-9)
    assert Page(out.read_text()).tags == Page((run / "report.html").read_text()).tags


def test_two_runs_beside_each_other(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run_cli(*train_arguments(run.parent / "data", other, 3, 4, "--run.no-report", "--seed", 5))
    assert not (other / "report.html").exists()
    run_cli("report", run, other, "--out", tmp_path / "both.html", "--json", tmp_path / "both.json")
    text = Page((tmp_path / "both.html").read_text()).text
    assert "Settings that differ" in text
    figures = json.loads((tmp_path / "both.json").read_text())
    assert [r["run"] for r in figures["runs"]] == ["run", "other"]
    assert figures["different_settings"]["run.seed"] == [0, 5]
    assert figures["runs"][1]["final_val_top1"] == evaluations(other)[-1]["val/top1"]


def test_an_artifact_is_reported_without_maps(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    data = run.parent / "data"
    run_cli("export", run, "--out", tmp_path / "m.onnx", "--data", data)
    run_cli("report", tmp_path / "m.onnx", "--data", data, "--out", tmp_path / "m.html")
    page = Page((tmp_path / "m.html").read_text())
    assert page.tags["img"] == Page((run / "report.html").read_text()).tags["img"] / 2
    assert "Squeeze and excitation" not in page.text
    message = run_cli("report", tmp_path / "m.onnx", code=1).stderr
    assert "--out" in message
    message = run_cli("report", tmp_path / "m.onnx", "--out", tmp_path / "x.html", code=1).stderr
    assert "--data" in message


def test_an_artifact_exported_with_maps_shows_what_its_run_shows(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    data, artifact = run.parent / "data", tmp_path / "m.onnx"
    image = sorted((data / "val/red").iterdir())[0]
    run_cli("export", run, "--out", artifact, "--data", data)
    assert "--with-cam" in refused("explain", artifact, image, "--out", tmp_path / "maps")
    run_cli("export", run, "--out", artifact, "--data", data, "--with-cam")
    run_cli("explain", artifact, image, "--out", tmp_path / "maps")
    run_cli("explain", run, image, "--out", tmp_path / "of run")
    ours, expected = (
        np.asarray(Image.open(tmp_path / folder / f"{image.stem}.jpg"), np.float32)
        for folder in ("maps", "of run")
    )
    assert np.abs(ours - expected).mean() < 0.5
    run_cli("report", artifact, "--data", data, "--out", tmp_path / "m.html")
    tags = Page((tmp_path / "m.html").read_text()).tags
    assert tags["img"] == Page((run / "report.html").read_text()).tags["img"]


def test_explain_writes_a_picture_of_each_image(run: Path, tmp_path: Path) -> None:
    good = sorted((run.parent / "data/val/red").iterdir())[:2]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    twin = tmp_path / good[0].name
    twin.write_bytes(good[0].read_bytes())
    done = run_cli("explain", run, *good, twin, bad, "--out", tmp_path / "maps", code=1)
    names = [p.name for p in sorted((tmp_path / "maps").iterdir())]
    assert names == sorted([*(f"{p.stem}.jpg" for p in good), f"{good[0].stem}-2.jpg"])
    with Image.open(tmp_path / "maps" / names[0]) as picture:
        assert picture.size == (768, 384)
    assert "bad.png: cannot be read" in done.stderr
    said = json.loads(run_cli("predict", run, good[0], "--json").stdout)["top"][0]
    assert f"{said['class']} {said['probability']:.1%}" in done.stdout.splitlines()[0]
    blue = run_cli("explain", run, good[0], "--class-name", "blue", "--out", tmp_path / "b").stdout
    assert ": blue " in blue
    refused = run_cli("explain", run, good[0], "--class-name", "pink", "--out", tmp_path, code=1)
    assert "expected one of blue, green, red" in refused.stderr


def test_a_report_that_fails_does_not_fail_the_run(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError("no memory")

    monkeypatch.setattr(build, "examples", fail)
    done = run_cli(*train_arguments(run.parent / "data", tmp_path / "run", 2, 4))
    assert "warning: report.html was not written: no memory" in done.stdout
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_where_a_run_went_on_is_marked(tmp_path: Path, run: Path) -> None:
    out, data = tmp_path / "run", run.parent / "data"
    run_cli(*train_arguments(data, out, 2, 4))
    run_cli(*train_arguments(data, out, 4, 4))
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [(e["event"], e["step"]) for e in events] == [("started", 0), ("resumed", 2)]
    assert "went on after step 2" in Page((out / "report.html").read_text()).text
