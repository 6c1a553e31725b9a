"""The files for clusters: the script with stand-ins for Slurm's programs, and the manifest."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from seresnext.cli.train import arguments
from seresnext.config import recipe
from seresnext.config.typed import with_flags

DEPLOY = Path(__file__).parents[2] / "deploy"
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo node7; echo node8; else echo "$@" >> "$LOG"; fi
"""
SRUN = """#!/bin/bash
echo "$@" >> "$LOG"
trap 'echo saved >> "$LOG"; exit 75' TERM
if [ -n "$CODE" ]; then exit "$CODE"; fi
while true; do sleep 0.05; done
"""


class Slurm:
    """A node that a job script runs on."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        self.environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "LOG": str(self.log),
            "SLURM_JOB_NODELIST": "node[7-8]",
            "SLURM_NNODES": "2",
            "SLURM_JOB_ID": "31",
        }

    def start(self, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(DEPLOY / "train.slurm")],
            env=self.environment | more,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


def test_a_job_that_ends_is_not_queued_again(slurm: Slurm) -> None:
    for code in (0, 1):
        slurm.log.unlink(missing_ok=True)
        job = slurm.start(DATA="/shared/imagenet", OUT="/shared/run", CODE=str(code))
        job.communicate()
        assert job.returncode == code
        (command,) = slurm.lines()
        assert "--nnodes 2 --nproc-per-node 8 --rdzv-id 31" in command
        assert "--rdzv-endpoint node7:29400" in command
        words = command.split("seresnext train ")[1].split()
        given = arguments(words)
        assert recipe(given.pop("recipe")) == recipe("imagenet")
        assert with_flags(recipe("imagenet"), given).run.out == "/shared/run"


def test_a_job_whose_time_is_up_saves_and_is_queued_again(slurm: Slurm) -> None:
    job = slurm.start(DATA="/shared/imagenet", OUT="/shared/run")
    while not slurm.lines():
        time.sleep(0.02)
    time.sleep(0.2)  # the stand-in sets its trap
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert slurm.lines()[1:] == ["saved", "requeue 31"]


def test_a_job_without_data_ends_at_once(slurm: Slurm) -> None:
    job = slurm.start(OUT="/shared/run")
    _, errors = job.communicate()
    assert job.returncode != 0
    assert "DATA: the images, on storage that all nodes share" in errors
    assert not slurm.lines()


def test_the_manifest() -> None:
    job: dict[str, Any] = yaml.safe_load((DEPLOY / "train-kubeflow.yaml").read_text())
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["command"] == ["torchrun", "-m", "seresnext", "train"]
    assert arguments(container["args"])["out"] == "/shared/runs/imagenet"
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["minReplicas"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert gpus == job["spec"]["elasticPolicy"]["nProcPerNode"]
    named = {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == named
    shutdown = int(container["env"][0]["value"])
    assert shutdown < worker["template"]["spec"]["terminationGracePeriodSeconds"]
