from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seresnext.errors import UserError
from seresnext.zoo.launch import command as launcher
from seresnext.zoo.launch import environment, launch_plan, new_folder
from seresnext.zoo.rank_table import RankTable, read_rank_table
from zoo.rank_tables import table_of, write_table
from zoo.tiny import LAYERS, ROOT, TINY, Command

SCRIPT = "scripts/run_distribution_train_ascend.sh"


def table(folder: Path, servers: dict[str, list[int]]) -> RankTable:
    return read_rank_table(write_table(folder, table_of(servers)))


def test_plan_of_each_server(tmp_path: Path) -> None:
    servers = table(tmp_path, {"10.0.0.1": [0, 1, 2], "10.0.0.2": [5, 4]})
    first, second = (launch_plan(servers, place, 8118) for place in (0, 1))
    assert (first.world_size, first.nodes, first.node_rank, first.first_rank) == (5, 2, 0, 0)
    assert (second.world_size, second.nodes, second.node_rank, second.first_rank) == (5, 2, 1, 3)
    assert (first.device_ids, second.device_ids) == ((0, 1, 2), (5, 4))
    assert first.master_address == second.master_address == "10.0.0.1"
    assert first.master_port == 8118
    assert not first.even


def test_one_server_meets_itself_at_a_free_port(tmp_path: Path) -> None:
    plan = launch_plan(table(tmp_path, {"10.0.0.1": [0]}), 0, 0)
    assert plan.master_address == "127.0.0.1"
    assert 1024 <= plan.master_port < 65536


def words_of(command: list[str], *names: str) -> list[str]:
    return [command[command.index(name) + 1] for name in names]


def test_torchrun(tmp_path: Path) -> None:
    plan = launch_plan(table(tmp_path, {"10.0.0.1": [0, 1], "10.0.0.2": [0, 1]}), 1, 29500)
    words = launcher(plan, "torch", tmp_path)
    names = ("--nnodes", "--node-rank", "--nproc-per-node", "--master-addr", "--master-port")
    assert words_of(words, *names) == ["2", "1", "2", "10.0.0.1", "29500"]


def test_msrun(tmp_path: Path) -> None:
    plan = launch_plan(table(tmp_path, {"10.0.0.1": [0, 1], "10.0.0.2": [0, 1]}), 1, 8118)
    words = launcher(plan, "mindspore", tmp_path)
    names = ("--worker_num", "--local_worker_num", "--node_rank", "--master_addr", "--join")
    assert words_of(words, *names) == ["4", "2", "1", "10.0.0.1", "True"]


def test_msrun_needs_servers_of_one_size(tmp_path: Path) -> None:
    plan = launch_plan(table(tmp_path, {"10.0.0.1": [0, 1], "10.0.0.2": [0]}), 1, 8118)
    assert words_of(launcher(plan, "torch", tmp_path), "--nproc-per-node") == ["1"]
    with pytest.raises(UserError, match="different numbers of devices"):
        launcher(plan, "mindspore", tmp_path)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("CPU", {}),
        ("GPU", {"CUDA_VISIBLE_DEVICES": "5,4"}),
        ("Ascend", {"ASCEND_RT_VISIBLE_DEVICES": "5,4", "RANK_TABLE_FILE": "rank_table.json"}),
    ],
)
def test_ranks_see_the_devices_of_the_table(
    tmp_path: Path, target: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "RANK_TABLE_FILE"):
        monkeypatch.delenv(name, raising=False)
    plan = launch_plan(table(tmp_path, {"10.0.0.1": [5, 4]}), 0, 0)
    made = environment(plan, target, tmp_path / "rank_table.json")
    assert made["PATH"].startswith(str(Path(sys.executable).parent))
    assert made["GLOG_v"]
    general = ("PATH", "GLOG_v")
    changes = {k: v for k, v in made.items() if os.environ.get(k) != v and k not in general}
    if "RANK_TABLE_FILE" in expected:
        expected["RANK_TABLE_FILE"] = str((tmp_path / "rank_table.json").resolve())
    assert changes == {**expected, "SERESNEXT_LOG": "train_parallel{rank}/log"}


def test_logs_of_earlier_starts_stay(tmp_path: Path) -> None:
    assert [new_folder(tmp_path).name for _ in range(3)] == ["1", "2", "3"]


# Real processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torch", pytest.param("mindspore", marks=pytest.mark.slow)])
def test_distributed_training(engine: str, tmp_path: Path, digits: Path, command: Command) -> None:
    """bash scripts/run_distribution_train_ascend.sh [RANK_TABLE_FILE] imagenet, two ranks."""
    write_table(tmp_path, table_of({"10.0.0.1": [0, 1]}))
    done = command(
        *(SCRIPT, "rank_table.json", "imagenet", "--device_target", "CPU", "--engine", engine),
        *("--data_path", digits, "--epoch_size", "2", "--lr_init", "0.1", *TINY, *LAYERS),
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"starting 2 of 2 ranks (0 to 1) with {engine}; logs: ckpt_0/logs"
    assert f"{engine} cpu" in lines[2]
    assert " x 2, fp32; 24 images in 4 classes; 6 steps of 8 images" in lines[2]
    assert re.search(r"^epoch: 1 step: 3, loss is \d+\.\d{6}$", done.stdout, re.M)
    assert done.stdout.count("epoch: 2 step: 3,") == 1
    run = tmp_path / "ckpt_0"
    assert [path.name for path in run.glob("*.ckpt")] == ["train_senet_imagenet-2_3.ckpt"]
    assert "epoch: 2 step: 3," in (run / "logs" / "rank-1.log").read_text()
    for rank in range(2):
        log = (tmp_path / f"train_parallel{rank}" / "log").read_text()
        assert "epoch: 2 step: 3," in log
        assert "train success" in log
    # 0.1 for the global batch of 8.
    assert json.loads((run / "config.json").read_text())["optim"]["lr_per_256"] == 3.2


def test_a_failing_rank_is_the_scripts_failure(tmp_path: Path, command: Command) -> None:
    write_table(tmp_path, table_of({"10.0.0.1": [0, 1]}))
    arguments = ("rank_table.json", "imagenet", "--device_target", "CPU", "--data_path", "nowhere")
    done = command(SCRIPT, *arguments, cwd=tmp_path, code=1)
    assert "train.py: error: no training images at nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_mistakes_are_found_before_a_rank_starts(tmp_path: Path, command: Command) -> None:
    write_table(tmp_path, table_of({"10.0.0.1": [0, 1]}))
    done = command(SCRIPT, "rank_table.json", "imagenet", "--epochs", "1", cwd=tmp_path, code=1)
    assert "unknown name 'epochs' on the command line" in done.stderr
    assert done.stderr.startswith("run_distribution_train_ascend.sh: error: ")
    done = command(SCRIPT, "missing.json", "imagenet", cwd=tmp_path, code=1)
    assert "cannot read rank table missing.json: No such file" in done.stderr
    command(SCRIPT, "rank_table.json", "cifar10", cwd=tmp_path, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["rank_table.json"]


@pytest.mark.slow
def test_a_signal_reaches_the_ranks_which_save_and_go_on_later(
    tmp_path: Path, digits: Path, command: Command
) -> None:
    write_table(tmp_path, table_of({"10.0.0.1": [0, 1]}))
    arguments = [
        *(str(ROOT / SCRIPT), "rank_table.json", "imagenet", "--device_target", "CPU"),
        *("--data_path", str(digits), "--epoch_size", "300", *TINY, *LAYERS),
    ]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", *arguments],
            cwd=tmp_path,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        )
        while "epoch: 1 step: 3" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 75, log.read_text()
    assert log.read_text().endswith("interrupted; saved. The same command goes on from here.\n")
    newest = max((tmp_path / "ckpt_0" / "checkpoints").iterdir())
    arguments[arguments.index("300")] = "5"
    done = command(SCRIPT, *arguments[1:], cwd=tmp_path)
    assert f"resuming after step {int(newest.name[5:])}" in done.stdout


@pytest.mark.slow
def test_two_servers(tmp_path: Path, digits: Path) -> None:
    """Two addresses of this machine stand for two servers; each starts its own ranks."""
    write_table(tmp_path, table_of({"127.0.0.1": [0], "127.0.0.2": [0]}))
    arguments = [
        *("bash", str(ROOT / SCRIPT), "rank_table.json", "imagenet", "--device_target", "CPU"),
        *("--data_path", str(digits), "--epoch_size", "1", *TINY),
    ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    servers = [
        subprocess.Popen(
            [*arguments, "--server_id", address, "--master_port", str(port), *LAYERS],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for address in ("127.0.0.1", "127.0.0.2")
    ]
    said = [server.communicate()[0] for server in servers]
    assert [server.returncode for server in servers] == [0, 0]
    assert said[0].startswith("starting 1 of 2 ranks (0 to 0) with torch")
    assert said[1].startswith("starting 1 of 2 ranks (1 to 1) with torch")
    assert "torch cpu (1 thread) x 2" in said[0]
    assert re.search(r"^epoch: 1 step: 3, loss is \d+\.\d{6}$", said[0], re.M)
    assert (tmp_path / "ckpt_0" / "train_senet_imagenet-1_3.ckpt").is_file()
