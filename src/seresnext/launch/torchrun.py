"""torchrun's command line."""

from __future__ import annotations

_HERE = "127.0.0.1"


def command(processes: int, program: list[str], rendezvous: list[str] | None = None) -> list[str]:
    """Return the arguments of `python -m` that start `program` in `processes` processes here.

    `rendezvous` are the options by which several machines meet; without them, this one is alone.
    """
    # As --standalone, which looks up this machine's name; it need not have an address.
    alone = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{_HERE}:0", "--rdzv-id", "seresnext"]
    options = rendezvous or [*alone, "--local-addr", _HERE]
    return ["torch.distributed.run", *options, "--nproc-per-node", str(processes), *program]
