"""`seresnext serve`."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError
from ..flags import Positional, parse
from ..install import install_command
from ..serve.limits import Limits
from .options import ComputeOptions


@dataclass(frozen=True, kw_only=True)
class ServeArgs(ComputeOptions, Limits):
    """Answer predictions over HTTP: the Open Inference Protocol, and POST /predict.

    Put a proxy with TLS in front of it when others than this machine shall reach it.
    """

    models: Positional[tuple[str, ...]]
    """Run folders, model folders, artifacts, weights files; or NAME=PATH of them."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    port: int = 8000
    """Port to listen on; 0 for any that is free."""
    threads: int = 0
    """CPU threads that compute; 0 leaves the number to the framework."""
    token_file: Path | None = None
    """File with the bearer token that clients must send; by default the environment variable
    SERESNEXT_TOKEN, and none if that is empty."""
    access_log: bool = False
    """Print a line of JSON for each request."""


def run(argv: list[str]) -> int:
    args = parse(ServeArgs, argv, "seresnext serve")
    require_extra("serve")
    from ..serve.run import serve

    serve(
        args.models,
        Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)}),
        host=args.host,
        port=args.port,
        engine=args.engine,
        device=args.device,
        threads=args.threads,
        token_file=args.token_file,
        access_log=args.access_log,
    )
    return 0


def require_extra(verb: str) -> None:
    """Raise UserError unless the packages of the extra `serve` are installed."""
    for package in ("starlette", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{verb} needs the package {package}; install: {install_command('serve')}"
            )
