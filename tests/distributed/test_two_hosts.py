"""Two machines by torchrun's rendezvous, as in docs/distributed.md: two network namespaces."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs import (
    LONG,
    Run,
    digest,
    finish,
    start,
    train_arguments,
)

_NAMESPACES = "unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc"
_HOSTS = """
set -e
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip netns add one
ip netns add two
ip link add eth1 netns one type veth peer name eth1 netns two
for host in one two; do ip -n $host link set lo up; ip -n $host link set eth1 up; done
ip -n one addr add 10.77.0.1/24 dev eth1
ip -n two addr add 10.77.0.2/24 dev eth1
"""


def hosts(script: str) -> list[str]:
    """Return a command that runs `script` where `ip netns exec one ...` and `two` are two hosts."""
    return [*_NAMESPACES.split(), "bash", "-c", _HOSTS + script]


def _forbidden() -> str:
    """Return why namespaces cannot be made here, or ""."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return "unshare (util-linux) or ip (iproute2) is not installed"
    done = subprocess.run(hosts("true"), capture_output=True, text=True, timeout=30, check=False)
    return f"no network namespaces here: {done.stderr.strip()}" if done.returncode else ""


@pytest.mark.slow
def test_two_hosts_train_one_model(images: Path, two: Run, tmp_path: Path) -> None:
    if reason := _forbidden():
        pytest.skip(reason)
    out = tmp_path / "run"
    arguments = train_arguments(images, out, 24, 2)

    def torchrun(host: int) -> str:
        options = (
            "--nnodes 2 --nproc-per-node 1 --rdzv-backend c10d --rdzv-endpoint 10.77.0.1:29400 "
            f"--rdzv-id test --local-addr 10.77.0.{host} --rdzv-conf is_host={int(host == 1)}"
        )
        launcher = [sys.executable, "-m", "torch.distributed.run", *options.split()]
        return shlex.join([*launcher, "-m", "seresnext", *arguments])

    script = f"""
export GLOO_SOCKET_IFNAME=eth1
ip netns exec two {torchrun(2)} &
second=$!
ip netns exec one {torchrun(1)}
wait $second
"""
    done = finish(start(hosts(script)), timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("top-1") >= 1
    assert digest(out) == two.digest  # where the processes are changes nothing


@pytest.mark.slow
@pytest.mark.timing
def test_a_host_that_vanishes_ends_the_other(images: Path, tmp_path: Path) -> None:
    """Its network link goes down: no process ends, no connection closes."""
    if reason := _forbidden():
        pytest.skip(reason)
    out = tmp_path / "run"
    arguments = train_arguments(images, out, LONG, 2, "--run.rank-timeout", 5)
    ranks = [
        shlex.join(
            [
                *("env", f"RANK={rank}", "WORLD_SIZE=2", "LOCAL_RANK=0", "LOCAL_WORLD_SIZE=1"),
                *("MASTER_ADDR=10.77.0.1", "MASTER_PORT=29500", sys.executable, "-m", "seresnext"),
                *arguments,
            ]
        )
        for rank in range(2)
    ]
    script = f"""
export GLOO_SOCKET_IFNAME=eth1
ip netns exec two {ranks[1]} &
second=$!
ip netns exec one {ranks[0]} &
first=$!
until [ -e {out}/checkpoints/step-00000004 ]; do sleep 0.2; done
ip -n one link set eth1 down
since=$SECONDS
wait $first || echo first host: code $?
wait $second || echo second host: code $?
echo after $((SECONDS - since)) s
"""
    done = finish(start(hosts(script)), timeout=120)
    assert "first host: code 1" in done.stdout, done.stdout + done.stderr
    assert "second host: code 1" in done.stdout
    assert int(done.stdout.rpartition("after ")[2].split()[0]) <= 20
    assert "rank 1 gave no sign of life for 5 s" in done.stderr
    assert "rank 0 gave no sign of life" in (out / "logs" / "rank-1.log").read_text()
