"""Repeat the tests that just failed, once, if all of them are marked `timing`.

    python .ci/repeat.py FILE

Says which tests it repeats. Those that pass now are appended to FILE. The exit code is 0 only when
all of them pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAILED = Path(".pytest_cache/v/cache/lastfailed")
ALL = ["-m", "slow or not slow"]


class Untimed:
    """Collects the tests that are not marked `timing`."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.names = [item.nodeid for item in items if not item.get_closest_marker("timing")]


def main(record: Path) -> int:
    failed = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
    untimed = Untimed()
    if not failed or pytest.main([*ALL, "--collect-only", "-qq", *failed], [untimed]):
        return 1  # the tests could not be collected or started
    if untimed.names:
        print(f"not repeated, because not timing: {', '.join(untimed.names)}")
        return 1
    print(f"repeating {len(failed)} failed tests: {', '.join(failed)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "pytest", *ALL, *failed], check=False).returncode
    still = json.loads(FAILED.read_text()) if FAILED.exists() else {}
    with record.open("a") as file:
        file.writelines(f"  {name}\n" for name in failed if name not in still)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
