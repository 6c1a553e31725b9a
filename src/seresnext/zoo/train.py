"""`train.py`: the original's training command."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from ..config import Config
from ..errors import UserError
from ..launch.ranks import rank_output, report_exit
from .checkpoints import refuse_other_runs, write_if_due
from .command import exit_with, parse
from .log import ZooReporter
from .options import TrainOptions
from .settings import check_device, train_config
from .wording import own_words, reworded


def main(argv: list[str]) -> int:
    """Train; the same command resumes a stopped run."""
    given = parse(TrainOptions, argv, "train.py", flags=True)
    with own_words(given):
        config, notes = train_config(given)
        out = Path(config.run.out)
        report_exit()
        with rank_output(out):
            _check_classes(given.options, config)
            check_device(given.options.device_target)
            on_saved = None
            if given.options.save_ckpt:
                refuse_other_runs(out)
                on_saved = functools.partial(write_if_due, out, config.run)
            from ..training.loop import train

            reporter = ZooReporter(words=lambda text: reworded(text, given))
            for note in notes:
                reporter.message(note)
            train(config, reporter, on_saved)
            print("train success", flush=True)
    return 0


def _check_classes(options: TrainOptions, config: Config) -> None:
    """Compare `num_classes`, if given, with the number of class folders."""
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
            "fix one of them, or leave num_classes out"
        )


if __name__ == "__main__":  # `torchrun -m`, `msrun python -m`
    exit_with(main)
