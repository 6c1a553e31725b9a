"""The same service on LitServe, for comparison; imported only if that is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import litserve

from ..api import Model
from .limits import Limits


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Batches of the same size and delay as ours. Pickled, so it stands at the module's level."""

    def __init__(self, load: Callable[[], Model]) -> None:
        delay = Limits.max_delay_ms / 1e3
        super().__init__(max_batch_size=Limits.max_batch, batch_timeout=delay, api_path="/predict")
        self._load = load

    def setup(self, _: str) -> None:
        self._model = self._load()

    def predict(self, forms: list[Any]) -> list[dict[str, Any]]:
        """The answers for multipart forms with an image each."""
        images = [form["file"].file.read() for form in forms]
        return [answer.to_dict() for answer in self._model.predict(images)]


def run(load: Callable[[], Model], port: int) -> None:
    """Serve until the process is ended."""
    server = litserve.LitServer(Api(load), accelerator="cpu")
    server.run(port=port, host="127.0.0.1", generate_client_file=False, log_level="critical")
