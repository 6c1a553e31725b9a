"""The record of unreadable images: each once, whoever finds it."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from seresnext.data.bad_images import BadImages


def test_processes_share_a_report(tmp_path: Path) -> None:
    path = tmp_path / "bad-images.jsonl"
    first, second = BadImages(path), BadImages(path)
    first.add("a", 0, "why")
    second.add("a", 0, "why")
    second.add("b", 1, "why")
    first.add("c", 2, "why")
    assert [json.loads(line)["file"] for line in path.read_text().splitlines()] == [*"abc"]
    assert first.names() == ["a", "b", "c"]
    assert BadImages(path).count == 3


def test_line_cut_short_by_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "bad-images.jsonl"
    path.write_text('{"file": "a", "index": 0, "reason": "why"}\n{"file": "b", "ind')
    bad_images = BadImages(path)
    assert bad_images.names() == ["a"]
    bad_images.add("b", 1, "why")
    bad_images.add("c", 2, "why")
    assert BadImages(path).names() == ["a", "b", "c"]


def test_many_threads_add(tmp_path: Path) -> None:
    path = tmp_path / "bad-images.jsonl"
    bad_images = BadImages(path)
    threads = [
        threading.Thread(target=lambda: [bad_images.add(str(i), i, "why") for i in range(50)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad_images.count == len(path.read_text().splitlines()) == 50


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "bad-images.jsonl"
    BadImages(path).add("\udcff.png", 0, "why")
    assert BadImages(path).names() == ["\udcff.png"]
