"""A rank table turned into running processes: torchrun or msrun on this server, awaited.

    python -m seresnext.zoo.launch RANK_TABLE imagenet [--server_id IP] [--NAME VALUE]...

Run it on every server of the table. Its exit code is 0 when every rank here ended well, 1 when
one failed (the others are then ended), 75 after a signal that was passed on to the ranks.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..errors import UserError
from ..training.interrupt import INTERRUPTED_EXIT
from .door import run
from .options import TrainOptions, parse
from .rank_table import RankTable, read_rank_table
from .settings import engine_config

_PORTS = {"torch": 29500, "mindspore": 8118}
"""Where ranks of several servers meet: each framework's own default."""
TRAINING = "seresnext.zoo.train"
"""What each rank runs: `train.py`."""
_VISIBLE = {"GPU": "CUDA_VISIBLE_DEVICES", "Ascend": "ASCEND_RT_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class LaunchPlan:
    """What to start on one server."""

    world_size: int
    """Ranks on all servers."""
    nodes: int
    node_rank: int
    """This server's place: its ranks come after those of lower places."""
    first_rank: int
    """Global rank of this server's first process."""
    device_ids: tuple[int, ...]
    """Devices of this server's processes, by local rank."""
    even: bool
    """Every server has as many devices."""
    master_address: str
    """Where rank 0 listens."""
    master_port: int


def launch_plan(table: RankTable, node_rank: int, master_port: int) -> LaunchPlan:
    """The plan of the server at place `node_rank` of the table. Port 0 is any free one."""
    server, several = table.servers[node_rank], len(table.servers) > 1
    return LaunchPlan(
        world_size=len(table.devices),
        nodes=len(table.servers),
        node_rank=node_rank,
        first_rank=server.devices[0].rank_id,
        device_ids=tuple(device.device_id for device in server.devices),
        even=len({len(other.devices) for other in table.servers}) == 1,
        master_address=table.servers[0].server_id if several else "127.0.0.1",
        master_port=master_port or _free_port(),
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(plan: LaunchPlan, engine: str, logs: Path) -> list[str]:
    """The launcher's command line up to the arguments of training.

    The first rank here is heard directly, the others write to files under `logs`. (msrun: all do,
    and the first one's file is shown.)
    """
    count = len(plan.device_ids)
    if engine == "torch":
        # torchrun's own --tee puts a prefix before each line, which would no longer be the
        # original's.
        others = ",".join(f"{rank}:3" for rank in range(1, count)) or "0"
        return [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", str(plan.nodes), "--node-rank", str(plan.node_rank)),
            *("--nproc-per-node", str(count)),
            *("--master-addr", plan.master_address, "--master-port", str(plan.master_port)),
            *("--log-dir", str(logs), "--redirects", others),
            *("-m", TRAINING),
        ]
    # msrun numbers ranks by node rank times the local count; where servers differ in that, it
    # must be left to number them itself.
    place = ("--node_rank", str(plan.node_rank)) if plan.even else ()
    return [
        *(sys.executable, "-m", "mindspore.parallel.cluster.run"),
        *("--worker_num", str(plan.world_size), "--local_worker_num", str(count), *place),
        *("--master_addr", plan.master_address, "--master_port", str(plan.master_port)),
        *("--log_dir", str(logs), "--join", "True", "--tail_worker_log", str(plan.first_rank)),
        *("python", "-m", TRAINING),
    ]


def environment(plan: LaunchPlan, target: str, table: Path) -> dict[str, str]:
    """The ranks' environment: which devices they see, and the table for Ascend's HCCL."""
    # msrun starts whatever `python` comes first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    changes = {"PATH": path}
    if target in _VISIBLE:
        changes[_VISIBLE[target]] = ",".join(map(str, plan.device_ids))
    if target == "Ascend":
        changes["RANK_TABLE_FILE"] = str(table.resolve())
    return {**os.environ, **changes}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="run_distribution_train_ascend.sh",
        usage="%(prog)s RANK_TABLE_FILE imagenet [--server_id IP] [--master_port N] "
        "[--NAME VALUE]... [-- OTHER FLAGS]",
        allow_abbrev=False,
    )
    parser.add_argument("rank_table")
    parser.add_argument("dataset", choices=["imagenet", "imagenet2012"])
    parser.add_argument("--server_id", default="", help="address of this server in the table")
    parser.add_argument("--master_port", type=int, default=0, help="where the ranks meet")
    own = argv[: argv.index("--")] if "--" in argv else argv
    given, training = parser.parse_known_args(own)
    training += argv[len(own) :]
    options, _ = parse(TrainOptions, training, parser.prog)  # before anything is started
    engine = engine_config(options).name

    table = read_rank_table(given.rank_table)
    port = given.master_port or (_PORTS[engine] if len(table.servers) > 1 else 0)
    plan = launch_plan(table, table.this_server(given.server_id), port)
    logs = new_folder(Path("train_parallel"))
    count, last = len(plan.device_ids), plan.first_rank + len(plan.device_ids) - 1
    print(
        f"starting {count} of {plan.world_size} ranks ({plan.first_rank} to {last}) with {engine}; "
        f"files of the ranks: {logs}",
        flush=True,
    )
    words = command(plan, engine, logs)
    env = environment(plan, options.device_target, Path(given.rank_table))
    code, interrupted = wait_for([*words, *training], env, engine == "mindspore")
    if interrupted:
        return INTERRUPTED_EXIT
    if code:
        raise UserError(f"a rank failed (exit code {code}); what the ranks said is in {logs}")
    return 0


def new_folder(parent: Path) -> Path:
    """The first of parent/1, parent/2, ... that is not there yet; earlier ones stay as they are."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0)
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


def wait_for(words: Sequence[str], env: dict[str, str], signal_workers: bool) -> tuple[int, bool]:
    """Run a launcher to its end: (its exit code, whether a signal came and was passed on).

    The launcher gets a session of its own, so that Ctrl-C reaches it through here alone. torchrun
    passes SIGTERM on to its ranks and waits for them; msrun would kill them, so with
    `signal_workers` they are told directly. A second signal kills them all.
    """
    signals = (signal.SIGTERM, signal.SIGINT)
    count = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        workers = session_leaders(process.pid) if signal_workers else []
        if count > 1:
            for leader in (*workers, process.pid):
                os.killpg(leader, signal.SIGKILL)
        for pid in workers or [process.pid]:
            os.kill(pid, signal.SIGTERM)

    process = subprocess.Popen(words, env=env, start_new_session=True)
    earlier = {number: signal.signal(number, forward) for number in signals}
    try:
        return process.wait(), count > 0
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def session_leaders(pid: int) -> list[int]:
    """The children of a process that lead a session: msrun's workers, not its scheduler."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if os.getsid(int(child)) == int(child)]


if __name__ == "__main__":
    run(main)
