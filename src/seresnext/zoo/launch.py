"""A rank table turned into running processes: torchrun or msrun on this server, awaited.

    python -m seresnext.zoo.launch RANK_TABLE imagenet [--server_id IP] [--NAME VALUE]...

Run it on every server of the table. Its exit code is 0 when every rank here ended well, 75 when a
signal was passed on and the run has saved itself, else that of the rank that failed; the others
are then ended.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..config import EngineName
from ..errors import UserError
from ..launch.processes import free_port, msrun_environment, muted, rank_logs, supervise
from .door import run
from .options import TrainOptions, parse
from .rank_table import RankTable, read_rank_table
from .settings import train_config

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
        master_port=master_port or free_port(),
    )


def command(plan: LaunchPlan, engine: EngineName, logs: Path) -> list[str]:
    """The launcher's command line up to the arguments of training; its own words go to a file.

    Raises UserError for servers of different size with msrun.
    """
    count = len(plan.device_ids)
    if engine == "torch":
        words = [
            *("torch.distributed.run", "--nnodes", str(plan.nodes)),
            *("--node-rank", str(plan.node_rank), "--nproc-per-node", str(count)),
            *("--master-addr", plan.master_address, "--master-port", str(plan.master_port)),
            *("-m", TRAINING),
        ]
        return muted(logs / "torchrun.log", words)
    if not plan.even:
        raise UserError(
            "the servers of the rank table have different numbers of devices; msrun numbers its "
            "ranks as if they had the same. Use as many on each, or --engine torch"
        )
    words = [
        *("mindspore.parallel.cluster.run", "--worker_num", str(plan.world_size)),
        *("--local_worker_num", str(count), "--node_rank", str(plan.node_rank)),
        *("--master_addr", plan.master_address, "--master_port", str(plan.master_port)),
        # The first rank's file is shown by `supervise`: msrun's way of it loses the last lines.
        *("--log_dir", str(logs), "--join", "True", "--tail_worker_log", "-2"),
        *("python", "-m", TRAINING),
    ]
    return muted(logs / "msrun.log", words)


def environment(plan: LaunchPlan, target: str, table: Path) -> dict[str, str]:
    """The ranks' environment: which devices they see, and the table for Ascend's HCCL."""
    changes = {}
    if target in _VISIBLE:
        changes[_VISIBLE[target]] = ",".join(map(str, plan.device_ids))
    if target == "Ascend":
        changes["RANK_TABLE_FILE"] = str(table.resolve())
    return {**msrun_environment(), **changes}


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
    table = read_rank_table(given.rank_table)
    # Mistakes are found before anything is started.
    options, flags = parse(TrainOptions, training, parser.prog)
    config, _ = train_config(options, flags, len(table.devices))
    engine = config.engine.name

    port = given.master_port or (_PORTS[engine] if len(table.servers) > 1 else 0)
    plan = launch_plan(table, table.this_server(given.server_id), port)
    logs = new_folder(rank_logs(Path(config.run.out)))
    count, last = len(plan.device_ids), plan.first_rank + len(plan.device_ids) - 1
    words = [*command(plan, engine, logs), *training]
    print(
        f"starting {count} of {plan.world_size} ranks ({plan.first_rank} to {last}) with {engine}; "
        f"logs: {logs.parent}",
        flush=True,
    )
    return supervise(
        words,
        logs.parent,
        environment(plan, options.device_target, Path(given.rank_table)),
        logs / f"worker_{plan.first_rank}.log" if engine == "mindspore" else None,
    )


def new_folder(parent: Path) -> Path:
    """The first of parent/1, parent/2, ... that is not there yet; earlier ones stay as they are."""
    number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0)
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


if __name__ == "__main__":
    run(main)
