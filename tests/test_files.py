from __future__ import annotations

import os
from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.files import append_json, read_json, replace_folder, replacing, write_json


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "file"
    with replacing(path, sync=True) as temporary:
        temporary.write_text("content")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "content"
    assert os.listdir(path.parent) == ["file"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"half, then {1 / 0}")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file/below: "):
        write_json(tmp_path / "file" / "below", {})


def test_the_order_of_a_durable_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content reaches the disk before the name does, and the name before the block ends."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        calls.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def recorded_replace(old: Path, new: Path) -> None:
        calls.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    with replacing(tmp_path / "file", sync=True) as temporary:
        temporary.write_text("content")
    assert calls == [f"fsync {temporary.name}", "rename", f"fsync {tmp_path.name}"]


def test_json_goes_back_and_forth(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"class": "ß", "values": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"class": "ß", "values": [1, 2.5, None]}
    append_json(tmp_path / "lines", {"a": 1})
    append_json(tmp_path / "lines", {"b": 2})
    assert (tmp_path / "lines").read_text() == '{"a": 1}\n{"b": 2}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "state .* is not valid JSON"),
        (b"[" * 100_000, "state .* is not valid JSON"),
        (b"\xff", "state .* is not valid JSON"),
        (b" " * 101, "is larger than 100 bytes; refused"),
        (None, "cannot read state .*: No such file"),
    ],
)
def test_bad_json_is_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "state.json"
    if content is not None:
        path.write_bytes(content)
    limit = 1 << 20 if content is None or len(content) > 101 else 100
    with pytest.raises(UserError, match=message):
        read_json(path, "state", limit)


def test_a_folder_that_cannot_be_moved_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = tmp_path / "beside" / "made", tmp_path / "folder"
    for folder, text in ((made, "new"), (path, "old")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    move = os.replace

    def refuse(source: Path, target: Path) -> None:
        if source == made:
            raise PermissionError
        move(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        replace_folder(made, path)
    assert (path / "file").read_text() == "old"
    monkeypatch.undo()
    replace_folder(made, path)
    assert (path / "file").read_text() == "new"
    assert [p.name for p in made.parent.iterdir()] == ["made.earlier"]
