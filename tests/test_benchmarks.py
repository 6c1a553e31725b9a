"""The benchmark scripts run, on a tiny scale."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_gpu_script_without_a_gpu(capsys: pytest.CaptureFixture) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert load("gpu").main([]) == 1
    assert "needs a CUDA device" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_script_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "gpu.json"
    assert load("gpu").main(["--cpu-dry-run", "--json", str(out)]) == 0
    results = json.loads(out.read_text())
    assert len(results["checks"]) == 11
    assert all(check["passed"] for check in results["checks"])
    assert {(r["task"], r["precision"], r["mode"]) for r in results["speed"]} == {
        ("training", "bf16", "eager"),
        ("prediction", "bf16", "eager"),
        ("training", "bf16", "compiled"),
        ("prediction", "bf16", "compiled"),
        ("training", "fp16", "eager"),
        ("training", "fp32", "eager"),
        ("prediction", "fp32", "eager"),
    }
    assert {r["model"] for r in results["speed"]} == {"seresnext", "timm"}
    assert all(r["images_per_second"] > 0 for r in results["speed"])
    assert "| training | bf16 | eager | timm |" in capsys.readouterr().out


def test_a_wrong_result_fails_the_gpu_script() -> None:
    gpu = load("gpu")
    checks = gpu.Checks()
    for error, passed in ((1e-5, True), (1e-3, False), (float("nan"), False)):
        checks.add("x", error, 1e-4)
        assert checks.records[-1]["passed"] is passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ("checkpoint_cost.py --steps 1 --blocks 1", "every 100 steps"),
        ("scaling.py --steps 1 --rounds 1 --batch-size 2", "efficiency from 1 to 2 processes"),
        ("inference.py --threads 1 --rounds 1", "half precision: our fp16 is"),
        ("train_step_torch.py --size 64 --batch 2 --rounds 1", "timm"),
        ("train_step_mindspore.py --size 64 --batch 2 --rounds 1", "mindcv"),
        ("stored.py --images 4 --rounds 1", "pixels, short side 256"),
    ],
    ids=lambda words: words.split()[0],
)
def test_the_scripts_for_the_cpu(words: str, printed: str) -> None:
    if "mindspore" in words:
        pytest.importorskip("mindspore")
    script, *given = words.split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *given],
        env=os.environ | {"GLOG_v": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # 1: it measured a cost above its limit, as one step on a busy machine can have.
    assert done.returncode in ((0, 1) if script == "checkpoint_cost.py" else (0,)), done.stderr
    assert printed in done.stdout, done.stderr


class TestEvidence:
    def test_a_table_has_gains_over_its_first_row(self) -> None:
        evidence = load_beside("evidence")
        table = evidence.Table("Title", None, [evidence.Row("as is"), evidence.Row("better")])
        pairs = {"as is": (0.5, 0.6, 0.7), "better": (0.6, 0.72, 0.78)}
        results = [
            evidence.Result("t", row, seed, top1, 10.0 + seed)
            for row, found in pairs.items()
            for seed, top1 in enumerate(found)
        ]
        lines = evidence.show(table, results).splitlines()
        assert lines[4] == "| as is | 60.0 (10.0) |  | 11 |"
        # The gains are 10, 12 and 8: 10 +- 4.30 * 2 / sqrt(3).
        assert lines[5] == "| better | 70.0 (9.2) | +10.0 ± 5.0 | 11 |"

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["labels-2", "imbalance", "timm"])
    def test_every_row_trains(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("sklearn")
        if name == "timm":
            pytest.importorskip("engines.timm_reference")
        evidence = load_beside("evidence")
        monkeypatch.setattr(evidence, "ROOT", tmp_path)
        table = evidence.tables()[name]
        for row in table.rows:
            result = evidence.run(name, table, replace(row, steps=2), 0)
            assert 0 <= result.top1 <= 1
        assert not list(tmp_path.glob("tmp*")), "runs are removed"


def load_beside(name: str) -> ModuleType:
    """A script that imports its neighbours."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return load(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
