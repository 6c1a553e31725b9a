"""Runs with other optimizers and with frozen stages: resumed, refused, finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runs import Run, checkpoint, digest, refused, run_cli, train_arguments
from seresnext.tensors import list_safetensors

ADAMW = ("--optim.name", "adamw", "--lr", 1e-3, "--run.no-report", "--run.keep-checkpoint-max", 9)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps with AdamW, saved after four."""
    out = tmp_path_factory.mktemp("adamw") / "run"
    run_cli(*train_arguments(images, out, 8, 4, *ADAMW))
    return out


def test_a_run_with_adamw_resumes_to_the_same_bits(run: Path, images: Path, tmp_path: Path) -> None:
    middle = checkpoint(run, 4)
    assert (middle / "optimizer.exp_avg_sq.safetensors").exists()
    run_cli(*train_arguments(images, tmp_path / "b", 8, 4, *ADAMW, "--resume", middle))
    assert digest(tmp_path / "b") == digest(run)


def test_the_state_of_one_optimizer_is_not_anothers(
    run: Path, one: Run, images: Path, tmp_path: Path
) -> None:
    """Checkpoints without the field, of earlier versions, are SGD's."""
    sgd = ("--lr", 1e-3)
    for start, options in ((checkpoint(run, 4), sgd), (checkpoint(one.folder, 24), ADAMW)):
        resume = ("--resume", start, *options)
        message = refused(*train_arguments(images, tmp_path / "c", 8, 4, *resume))
        assert "optim.name was" in message
        assert "by --pretrained" in message


def test_stages_join_a_run_with_sgd_only(run: Path, images: Path, tmp_path: Path) -> None:
    """AdamW's averages of a stage that was frozen are zeros, which its count of steps hides."""
    for options, goes_on in ((("--lr", 1e-3), True), (ADAMW, False)):
        out = tmp_path / str(goes_on)
        frozen = ("--pretrained", run, "--optim.freeze", "stem..layer4", *options)
        run_cli(*train_arguments(images, out, 1, 4, *frozen))
        more = train_arguments(images, out, 2, 4, "--pretrained", run, *options)
        if goes_on:
            run_cli(*more)
        else:
            assert "optim.freeze was 'stem..layer4'" in refused(*more)


def test_only_what_is_not_frozen_learns(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "frozen"
    frozen = ("--pretrained", run, "--optim.freeze", "stem..layer4", "--run.no-report")
    run_cli(*train_arguments(images, out, 3, 4, *frozen))
    before, after = (
        {name: entry.read() for name, entry in list_safetensors(file)[0].items()}
        for file in (p / "model" / "model.safetensors" for p in (run, out))
    )
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--optim.name", "lamb"), "optim.lr_per_256: expected 0.05 or less with optim.name lamb"),
        (("--optim.freeze", "stem"), "optim.freeze: expected none without --pretrained"),
        (("--optim.freeze", "stem..fc"), "optim.freeze: expected a range of stages such as"),
        (("--optim.freeze", "layer3..stem"), "optim.freeze: expected a range of stages such as"),
    ],
)
def test_refused_before_training(
    options: tuple[str, ...], message: str, images: Path, tmp_path: Path
) -> None:
    assert message in refused(*train_arguments(images, tmp_path / "x", 2, 4, *options))


def test_one_image_is_enough_for_frozen_statistics(run: Path, images: Path, tmp_path: Path) -> None:
    """A batch of one image at 32 px leaves BN one value, which has no variance."""
    given = ("--pretrained", run, "--run.no-report", "--run.eval-batch-size", 4)
    message = refused(*train_arguments(images, tmp_path / "x", 2, 1, *given))
    assert "--optim.freeze-bn" in message
    run_cli(*train_arguments(images, tmp_path / "y", 2, 1, *given, "--optim.freeze-bn"))
