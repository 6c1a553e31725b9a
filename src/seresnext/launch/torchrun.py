"""torchrun's command line."""

from __future__ import annotations


def command(processes: int, program: list[str], rendezvous: list[str] | None = None) -> list[str]:
    """Return the arguments of `python -m` that start `program` in `processes` processes here.

    `rendezvous` are the options by which several machines meet; without them, this one is alone.
    """
    options = rendezvous or ["--standalone"]
    return ["torch.distributed.run", *options, "--nproc-per-node", str(processes), *program]
