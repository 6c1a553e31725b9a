"""The main job end to end on real images: data, training, evaluation, prediction, export.

Run by `make demo`. Every stage is a command that a user can type; it is printed before it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from seresnext.cli import main as seresnext
from seresnext.training.metrics import Metrics

DATA = Path("data/digits")


def run(*words: str) -> None:
    """One verb, echoed; the demo ends with its exit code if it fails."""
    print(f"\n$ seresnext {' '.join(words)}", flush=True)
    code = seresnext(list(words))
    if code:
        sys.exit(code)


def validation_metrics(model: str, engine: str) -> Metrics:
    from seresnext.evaluate import evaluate_folder
    from seresnext.runtimes.base import create_runtime

    return evaluate_folder(create_runtime(Path(model), engine=engine), DATA, batch_size=64)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("torch", "mindspore"), default="torch")
    engine = parser.parse_args().engine
    out = "runs/demo" if engine == "torch" else f"runs/demo-{engine}"
    start = time.perf_counter()

    run("data", "demo", "--out", str(DATA))
    run("train", "--recipe", "demo", "--data", str(DATA), "--out", out, "--engine", engine)
    run("evaluate", out, "--data", str(DATA), "--engine", engine)
    examples = [str(sorted((DATA / "val" / digit).iterdir())[0]) for digit in "037"]
    run("predict", out, *examples, "--top", "3", "--engine", engine)
    onnx = f"{out}/model.onnx"
    run("export", out, "--format", "onnx", "--out", onnx, "--data", str(DATA), "--engine", engine)

    metrics = validation_metrics(out, engine)
    print(
        f"""
Done in {time.perf_counter() - start:.0f} s.
  accuracy  {metrics.top1:.2%} top-1 on {metrics.images} digits the network never saw
  model     {out}/model (model.safetensors, config.json)
  artifact  {onnx} (runs without PyTorch or MindSpore)
  curves    .venv/bin/tensorboard --logdir {out}/tensorboard

Try next:
  .venv/bin/seresnext predict {onnx} {examples[0]}
  .venv/bin/seresnext train --recipe finetune --data YOUR_PHOTOS --pretrained {out} --out runs/mine
  .venv/bin/seresnext bench infer {onnx} {out}"""
    )


if __name__ == "__main__":
    main()
