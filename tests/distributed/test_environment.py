"""Variables of torchrun and msrun that happen to be set, and a machine without an address."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from runs import SERESNEXT, Run, digest, finish, refused, run_cli, start, train_arguments

STRAY = {
    **{"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "nowhere.invalid", "MASTER_PORT": "1"},
    **{"RANK_ID": "1", "RANK_SIZE": "2", "MS_WORKER_NUM": "2", "MS_ROLE": "MS_WORKER"},
}


@pytest.mark.parametrize("values", [STRAY, dict.fromkeys(STRAY, "x"), dict.fromkeys(STRAY, "")])
def test_only_train_joins_a_world(
    one: Run,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, str],
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    photo = next((images / "val" / "red").iterdir())
    assert run_cli("predict", one.folder, photo).stdout
    assert "13 images" in run_cli("evaluate", one.folder, "--data", images).stdout
    run_cli("export", one.folder, "--out", tmp_path / "model.onnx", "--data", images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "two"}, "the environment variable WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "-1"}, "the environment variable WORLD_SIZE is '-1'"),
        ({"RANK": "1e3"}, "the environment variable RANK is '1e3'"),
        ({"RANK": ""}, "RANK is not set"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({"RANK": "0", "LOCAL_RANK": "5"}, "local rank 5 of 2"),
        ({"RANK": "0", "LOCAL_WORLD_SIZE": "4", "LOCAL_RANK": "3"}, "local rank 3 of 4"),
    ],
)
def test_contradictions_are_one_line_in_train(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    for name, value in (STRAY | {"RANK": "0", "LOCAL_RANK": "0"} | changes).items():
        monkeypatch.setenv(name, value)
    assert message in refused(*train_arguments(images, tmp_path / "run", 1, 4))


def test_a_world_beside_nproc_is_refused(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    line = refused(*train_arguments(images, tmp_path / "run", 1, 4, "--nproc", 2))
    assert "--nproc 2, but the environment says that this is one of 4 processes" in line


def test_a_stray_rank_alone_means_nothing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "3")
    shown = run_cli(*train_arguments(images, tmp_path / "run", 1, 4)).stdout
    assert f"model: {tmp_path}/run/model" in shown


NAMELESS = ["unshare", "--uts", "bash", "-c", 'hostname nowhere.invalid && exec "$0" "$@"']


def can_be_nameless() -> bool:
    try:
        return subprocess.run([*NAMELESS, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not can_be_nameless(), reason="needs the right to change the host's name")
def test_local_ranks_need_no_name_service(images: Path, two: Run, tmp_path: Path) -> None:
    arguments = train_arguments(images, tmp_path / "run", 24, 2, "--nproc", 2)
    done = finish(start([*NAMELESS, *SERESNEXT, *arguments]), timeout=120)
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "run") == two.digest
