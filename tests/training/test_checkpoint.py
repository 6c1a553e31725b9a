from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seresnext.errors import UserError
from seresnext.training.checkpoint import (
    Checkpoint,
    checkpoint_path,
    clean,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
)
from seresnext.training.saver import Saver


def make(step: int) -> Checkpoint:
    rng = np.random.default_rng(step)
    weights = {"conv1.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    return Checkpoint(step, {"note": f"at {step}", "x": 0.1}, {"model": weights, "momentum": {}})


def test_round_trip(tmp_path: Path) -> None:
    saved = make(7)
    path = save_checkpoint(tmp_path, saved)
    assert path.name == "step-00000007"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state) == (7, saved.state)
    assert loaded.tensors.keys() == {"model"}  # an empty group takes no file
    np.testing.assert_array_equal(
        loaded.tensors["model"]["conv1.weight"], saved.tensors["model"]["conv1.weight"]
    )
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    path = save_checkpoint(tmp_path, make(7))
    assert {p.stat().st_mode for p in path.iterdir()} == {(tmp_path / "other").stat().st_mode}


def test_saving_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, make(3))
    second = make(3)
    second.state["note"] = "again"
    assert load_checkpoint(save_checkpoint(tmp_path, second)).state["note"] == "again"


FILES = ["model.safetensors", "state.json", "manifest.json"]


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "lengthened":
        path.write_bytes(data + b"\0")
    elif how == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "lengthened", "flipped", "missing"])
@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed_and_the_older_one_serves(tmp_path: Path, name: str, how: str) -> None:
    save_checkpoint(tmp_path, make(1))
    path = save_checkpoint(tmp_path, make(2))
    damage(path / name, how)
    with pytest.raises(UserError, match=r"checkpoint|manifest|JSON"):
        load_checkpoint(path)
    checkpoint, problems = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.step == 1
    assert len(problems) == 1


def test_every_single_bit_of_the_weights_counts(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(1)) / "model.safetensors"
    original = path.read_bytes()
    for position in range(0, len(original), 37):
        data = bytearray(original)
        data[position] ^= 1 << (position % 8)
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            load_checkpoint(path.parent)
    path.write_bytes(original)
    load_checkpoint(path.parent)


def test_a_manifest_that_points_outside_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(1))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../etc/passwd"] = manifest["files"].pop("state.json")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="outside"):
        load_checkpoint(path)


def test_other_formats_and_nonsense_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, make(1))
    manifest = json.loads((path / "manifest.json").read_text())
    for text in ("[]", '{"format": 1}', json.dumps({**manifest, "format": 99})):
        (path / "manifest.json").write_text(text)
        with pytest.raises(UserError):
            load_checkpoint(path)
    with pytest.raises(UserError, match="cannot read"):
        load_checkpoint(tmp_path / "nowhere")


def test_clean_keeps_newest_and_best_and_removes_leftovers(tmp_path: Path) -> None:
    for step in range(1, 7):
        save_checkpoint(tmp_path, make(step))
    (tmp_path / ".saving-step-00000009-1").mkdir()
    clean(tmp_path, keep=2, best_step=3)
    assert [p.name[-1] for p in list_checkpoints(tmp_path)] == ["3", "5", "6"]
    assert not list(tmp_path.glob(".saving*"))


STAGES = ["first write", "second write", "last write", "before rename", "after rename"]

KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
import seresnext.training.checkpoint as module

stage, count = sys.argv[2], 0
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
synced, replace = module._synced, os.replace

def dying_write(path):
    global count
    count += 1
    if (stage, count) in (("first write", 1), ("second write", 2), ("last write", 3)):
        os.truncate(path, path.stat().st_size // 2)
        die()
    return synced(path)

def dying_replace(a, b):
    if stage == "before rename":
        die()
    replace(a, b)
    die()

module._synced, module.os.replace = dying_write, dying_replace
tensors = {"model": {"w": np.ones(1000, np.float32)}}
module.save_checkpoint(Path(sys.argv[1]), module.Checkpoint(2, {}, tensors))
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_kill_at_any_stage_leaves_a_checkpoint(tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "checkpoints"
    save_checkpoint(folder, make(1))
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), stage], check=False)
    assert done.returncode == -9
    checkpoint, problems = newest_checkpoint(folder)
    assert checkpoint is not None
    assert checkpoint.step == (2 if stage == "after rename" else 1)
    assert problems == []
    clean(folder, keep=5, best_step=None)
    assert not list(folder.glob(".saving*"))


def test_files_and_folder_are_synced_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(handle: int) -> None:
        events.append("sync " + Path(os.readlink(f"/proc/self/fd/{handle}")).name.split("-")[0])
        real_sync(handle)

    def replace(a: Path, b: Path) -> None:
        events.append("rename")
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    save_checkpoint(tmp_path / "run", make(1))
    assert events == [
        "sync model.safetensors",
        "sync state.json",
        "sync manifest.json",
        "sync .saving",
        "rename",
        "sync run",
    ]


def test_a_full_disk_keeps_the_old_one_and_names_the_trouble(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    script = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from seresnext.training.checkpoint import *
from seresnext.errors import UserError
small = Checkpoint(1, {{}}, {{"model": {{"w": np.zeros(8, np.float32)}}}})
save_checkpoint(Path({str(folder)!r}), small)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
large = Checkpoint(2, {{}}, {{"model": {{"w": np.zeros(10000, np.float32)}}}})
try:
    save_checkpoint(Path({str(folder)!r}), large)
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "cannot save checkpoint" in done.stdout
    assert "earlier checkpoints are untouched" in done.stdout
    assert [p.name for p in folder.iterdir()] == ["step-00000001"]
    load_checkpoint(checkpoint_path(folder, 1))


class TestSaver:
    def test_writes_in_order_and_cleans(self, tmp_path: Path) -> None:
        heard: list[int] = []
        saver = Saver(tmp_path, 2, lambda saved: heard.append(saved.step))
        for step in range(1, 5):
            saver.save(make(step), best_step=1)
        saver.wait()
        assert heard == [1, 2, 3, 4]
        assert [p.name[-1] for p in list_checkpoints(tmp_path)] == ["1", "3", "4"]

    def test_a_failure_is_raised_later_not_lost(self, tmp_path: Path) -> None:
        blocked = tmp_path / "file"
        blocked.write_text("not a folder")
        saver = Saver(blocked, 2)
        saver.save(make(1), None)
        with pytest.raises(UserError, match="cannot save"):
            saver.wait()
        shutil.rmtree(tmp_path, ignore_errors=True)
