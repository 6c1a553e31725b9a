"""`train.py`: the original's training command."""

from __future__ import annotations

import os
from pathlib import Path

from ..config import Config
from ..errors import UserError
from ..launch.processes import rank_output, report, world_size
from .checkpoints import refuse_foreign
from .door import run
from .log import ZooReporter
from .options import TrainOptions, parse
from .settings import train_config


def main(argv: list[str]) -> int:
    """Train; the same command goes on where it stopped."""
    options, flags = parse(TrainOptions, argv, "train.py")
    config, notes = train_config(options, flags)
    out = Path(config.run.out)
    report()
    with rank_output(out):
        _check_classes(options, config)
        if options.save_ckpt:
            refuse_foreign(out)
        from ..training.loop import train

        ckpt_folder = out if options.save_ckpt else None
        reporter = ZooReporter(None, ckpt_folder, config.run, world_size())
        for note in notes:
            reporter.message(note)
        train(config, reporter, reporter.saved)
    return 0


def _check_classes(options: TrainOptions, config: Config) -> None:
    """`num_classes`, where it was given, against the folders there are."""
    if options.num_classes is None:
        return
    folder = config.data.train or os.path.join(config.data.root, "train")
    try:
        with os.scandir(folder) as entries:
            found = sum(1 for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise UserError(f"data_path: cannot read {folder}: {error.strerror}") from None
    if found != options.num_classes:
        raise UserError(
            f"num_classes is {options.num_classes}, but {folder} has {found} class folders; "
            "mend one of them, or leave num_classes out"
        )


if __name__ == "__main__":  # `torchrun -m`, `msrun python -m`
    run(main)
