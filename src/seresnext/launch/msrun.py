"""msrun's command line and environment."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def command(
    processes: int, logs: Path, program: list[str], rendezvous: list[str] | None = None
) -> list[str]:
    """Return the arguments of `python -m` that start `program` in `processes` processes here.

    `rendezvous` are the options by which several machines meet; without them, this one is alone.
    """
    options = rendezvous or ["--worker_num", str(processes), "--master_port", str(free_port())]
    return [
        *("mindspore.parallel.cluster.run", *options, "--local_worker_num", str(processes)),
        # `supervise` shows the first rank's output: msrun's own way of it loses the last lines.
        *("--log_dir", str(logs), "--join", "True", "--tail_worker_log", "-2"),
        *("python", *program),
    ]


def environment() -> dict[str, str]:
    """Return this process's environment with what msrun needs."""
    # msrun starts the first `python` of the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # MindSpore warns of every connection that it makes.
    return {"GLOG_v": "3", **os.environ, "PATH": path}


def free_port() -> int:
    """Return a TCP port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
