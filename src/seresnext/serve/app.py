"""The paths that the server answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from . import metrics, plain, protocol
from .guard import AccessLog, Guard
from .limits import Refusal
from .openapi import description
from .service import VERSION, Served, Service, Work

STATIC = Path(__file__).parent / "static"
"""Files for browsers: `index.html` at `/`, all of them under `/assets/`."""


def create_app(service: Service, log: AccessLog | None = None) -> Starlette:
    """Return the ASGI application; `log` takes a record of each request."""
    app = Starlette(
        routes=[*_Routes(service).all(), Mount("/assets", StaticFiles(directory=STATIC))],
        middleware=[Middleware(Guard, service=service, log=log)],
        exception_handlers={HTTPException: _unknown_path},
    )
    app.router.redirect_slashes = False
    return app


async def _unknown_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    raise Refusal(
        error.status_code,
        f"{request.method} {request.url.path}: {error.detail}",
        "unknown_path",
        headers=error.headers,
    )


class _Routes:
    def __init__(self, service: Service) -> None:
        self._service = service

    def all(self) -> list[Route]:
        model = "/v2/models/{name}"
        version = f"{model}/versions/{{version}}"
        return [
            Route("/", self.page),
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.model) for path in (model, version)),
            *(Route(f"{path}/ready", self.model_ready) for path in (model, version)),
            *(Route(f"{path}/infer", self.infer, methods=["POST"]) for path in (model, version)),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.openapi),
        ]

    async def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def server(self, request: Request) -> Response:
        return JSONResponse({**protocol.SERVER, "models": list(self._service.models)})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = not self._service.draining
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        return JSONResponse(protocol.metadata(self._named(request)))

    async def model_ready(self, request: Request) -> Response:
        self._named(request)
        return await self.ready(request)

    async def infer(self, request: Request) -> Response:
        served = self._named(request)
        length = request.headers.get(protocol.LENGTH_HEADER)
        most = self._service.limits.max_pixels

        async def work(work: Work) -> Response:
            side = served.model.input.image_size
            inference = await work.parsed(protocol.parse, length, side, most)
            work.take(len(inference.images))
            pixels = inference.images
            if inference.input == protocol.IMAGES:
                pixels = await work.preprocessed(served, pixels)
            logits = await self._service.logits(served, pixels)
            return protocol.answer(inference, served, logits)

        return await self._service.answer(request, work)

    async def predict(self, request: Request) -> Response:
        first = next(iter(self._service.models))
        served = self._service.model(request.query_params.get("model", first))
        return await self._service.answer(request, lambda w: plain.predict(request, served, w))

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.metrics.text(), media_type=metrics.CONTENT_TYPE)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(description())

    def _named(self, request: Request) -> Served:
        path: dict[str, Any] = request.path_params
        return self._service.model(path["name"], path.get("version", VERSION))
