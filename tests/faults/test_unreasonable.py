"""Values that no machine can serve are refused before memory or threads are taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import Run, refused, train_arguments
from seresnext.exit_codes import run_command

HUGE = 10**12
TRAIN = {
    "--run.eval-batch-size": (2 * 10**9, "run.eval_batch_size: expected 1 to 2796202 images of 32"),
    "--batch-size": (2 * 10**9, "run.batch_size): expected 1 to 2796202 images of 32"),
    "--workers": (100_000, "data.workers): expected 1024 or less"),
    "--engine.threads": (100_000, "engine.threads: expected 1024 or less"),
    "--optim.lr-per-256": ("nan", "optim.lr_per_256: expected a finite number"),
    "--run.duration": ("1e999 epochs", "run.duration: expected a number and a unit"),
    "--seed": (2**64, "run.seed): expected less than"),
    "--nproc": (10**6, "--nproc: expected 1 to"),
}
OTHERS = [
    (("evaluate", "RUN", "--data", "IMAGES", "--batch-size", HUGE), "--batch-size: expected 1 to"),
    (("evaluate", "RUN", "--data", "IMAGES", "--workers", 100_000), "expected 1024 or less"),
    (("predict", "RUN", "IMAGES/val", "--batch-size", HUGE), "--batch-size: expected 1 to"),
    (("export", "RUN", "--out", "m.onnx", "--max-drop", "nan"), "--max-drop: expected 0 to 100"),
    (("bench", "infer", "RUN", "--seconds", "inf"), "expected positive numbers"),
    (("bench", "serve", "RUN", "--seconds", "inf"), "expected positive numbers"),
    (("bench", "serve", "RUN", "--clients", "65"), "--clients: expected at most 64"),
    (("bench", "infer", "RUN", "--batch-sizes", HUGE), "--batch-sizes: expected 1 to"),
]


@pytest.mark.parametrize("flag", TRAIN)
def test_training_refuses(images: Path, tmp_path: Path, flag: str) -> None:
    value, message = TRAIN[flag]
    assert message in refused(*train_arguments(images, tmp_path / "run", 1, 4, flag, value))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "message"), OTHERS)
def test_other_verbs_refuse(
    one: Run, images: Path, arguments: tuple[object, ...], message: str
) -> None:
    places = {"RUN": str(one.folder), "IMAGES": str(images), "IMAGES/val": str(images / "val")}
    assert message in refused(*(places.get(str(word), word) for word in arguments))


def test_a_million_epochs_are_a_number(images: Path, tmp_path: Path) -> None:
    arguments = train_arguments(images, tmp_path / "run", 1, 4)
    duration = arguments.index("--run.duration")
    del arguments[duration : duration + 2]
    refused(*arguments, "--epochs", 1_000_000, "--data", tmp_path / "nowhere")
    text = refused(*arguments, "--epochs", "1e6", "--resume", tmp_path / "nowhere")
    assert "nowhere" in text


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> int:
        raise error

    assert run_command("seresnext", fail, []) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith("seresnext: error: out of memory")
    assert "smaller batches or images" in line


def test_other_errors_keep_their_traceback() -> None:
    def fail(arguments: list[str]) -> int:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run_command("seresnext", fail, [])
