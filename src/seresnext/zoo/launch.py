"""`run_distribution_train_ascend.sh`: start the ranks of a rank table on this server and wait.

    python -m seresnext.zoo.launch RANK_TABLE imagenet [--server_id IP] [--NAME VALUE]...

Run it on every server of the table. torchrun or msrun starts the ranks. The exit code is 0 if every
rank here succeeded, 75 if a signal was passed on and the run has saved its state, else that of the
rank that failed; the other ranks are then terminated.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..config import EngineName
from ..errors import UserError
from ..launch import msrun, torchrun
from ..launch.processes import muted, supervise
from ..launch.ranks import rank_logs
from .command import LOG, exit_with, parse
from .options import TrainOptions
from .rank_table import RankTable, read_rank_table
from .settings import check_device, train_config
from .wording import own_words

PROGRAM = "run_distribution_train_ascend.sh"
_PORTS = {"torch": 29500, "mindspore": 8118}
"""Port at which the ranks of several servers connect: each framework's default."""
TRAINING = "seresnext.zoo.train"
"""The module that each rank runs: `train.py`."""
_VISIBLE = {"GPU": "CUDA_VISIBLE_DEVICES", "Ascend": "ASCEND_RT_VISIBLE_DEVICES"}


@dataclass(frozen=True)
class LaunchPlan:
    """What to start on one server."""

    world_size: int
    """Ranks on all servers."""
    nodes: int
    node_rank: int
    """This server's number: ranks are numbered from one server to the next."""
    first_rank: int
    """Global rank of this server's first process."""
    device_ids: tuple[int, ...]
    """Devices of this server, by local rank."""
    even: bool
    """Whether all servers have the same number of devices."""
    master_address: str
    """Address of rank 0's server."""
    master_port: int


def launch_plan(table: RankTable, node_rank: int, master_port: int) -> LaunchPlan:
    """The plan of the table's server number `node_rank`. Port 0 means any free one."""
    server, several = table.servers[node_rank], len(table.servers) > 1
    return LaunchPlan(
        world_size=len(table.devices),
        nodes=len(table.servers),
        node_rank=node_rank,
        first_rank=server.devices[0].rank_id,
        device_ids=tuple(device.device_id for device in server.devices),
        even=len({len(other.devices) for other in table.servers}) == 1,
        master_address=table.servers[0].server_id if several else "127.0.0.1",
        master_port=master_port or msrun.free_port(),
    )


def command(plan: LaunchPlan, engine: EngineName, logs: Path) -> list[str]:
    """The launcher's command line up to the arguments of training; its own output goes to a file.

    Raises UserError for servers of different sizes with msrun.
    """
    count, program = len(plan.device_ids), ["-m", TRAINING]
    if engine == "torch":
        rendezvous = [
            *("--nnodes", str(plan.nodes), "--node-rank", str(plan.node_rank)),
            *("--master-addr", plan.master_address, "--master-port", str(plan.master_port)),
        ]
        return muted(logs / "torchrun.log", torchrun.command(count, program, rendezvous))
    if not plan.even:
        raise UserError(
            "the servers of the rank table have different numbers of devices; msrun numbers its "
            "ranks as if they had the same. Use the same number on each, or --engine torch"
        )
    rendezvous = [
        *("--worker_num", str(plan.world_size), "--node_rank", str(plan.node_rank)),
        *("--master_addr", plan.master_address, "--master_port", str(plan.master_port)),
    ]
    return muted(logs / "msrun.log", msrun.command(count, logs, program, rendezvous))


def environment(plan: LaunchPlan, target: str, table: Path) -> dict[str, str]:
    """The ranks' environment: the visible devices, and the table for Ascend's HCCL."""
    # Each rank copies its output to where the original's script wrote it.
    changes = {LOG: "train_parallel{rank}/log"}
    if target in _VISIBLE:
        changes[_VISIBLE[target]] = ",".join(map(str, plan.device_ids))
    if target == "Ascend":
        changes["RANK_TABLE_FILE"] = str(table.resolve())
    return {**msrun.environment(), **changes}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s RANK_TABLE_FILE imagenet [--server_id IP] [--master_port N] "
        "[--NAME VALUE]... [-- OTHER FLAGS]",
        allow_abbrev=False,
    )
    parser.add_argument("rank_table")
    parser.add_argument("dataset", choices=["imagenet", "imagenet2012"])
    parser.add_argument("--server_id", default="", help="address of this server in the table")
    parser.add_argument(
        "--master_port", type=port, default=0, help="port at which the ranks connect"
    )
    own = argv[: argv.index("--")] if "--" in argv else argv
    given, training = parser.parse_known_args(own)
    training += argv[len(own) :]
    table = read_rank_table(given.rank_table)
    # Errors are found before a process is started.
    options = parse(TrainOptions, training, PROGRAM, flags=True)
    with own_words(options):
        config, _ = train_config(options, len(table.devices))
        check_device(options.options.device_target)
    engine = config.engine.name

    master_port = given.master_port or (_PORTS[engine] if len(table.servers) > 1 else 0)
    plan = launch_plan(table, table.this_server(given.server_id), master_port)
    logs = new_folder(rank_logs(Path(config.run.out)))
    count, last = len(plan.device_ids), plan.first_rank + len(plan.device_ids) - 1
    arguments = [*command(plan, engine, logs), *training]
    print(
        f"starting {count} of {plan.world_size} ranks ({plan.first_rank} to {last}) with {engine}; "
        f"logs: {logs.parent}",
        flush=True,
    )
    return supervise(
        arguments,
        logs.parent,
        environment(plan, options.options.device_target, Path(given.rank_table)),
        logs / f"worker_{plan.first_rank}.log" if engine == "mindspore" else None,
    )


def port(text: str) -> int:
    """The number of a port; 0 is the framework's own."""
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text!r}")
    return int(text)


def new_folder(parent: Path) -> Path:
    """Make and return the first of parent/1, parent/2, ... after the existing ones."""
    number = 1 + max((int(p.name) for p in parent.iterdir() if p.name.isdigit()), default=0)
    while True:
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


if __name__ == "__main__":
    exit_with(main, PROGRAM)
