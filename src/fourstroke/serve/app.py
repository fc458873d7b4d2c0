"""OpenAI's image API over the engine, with partial images while a picture is being drawn."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from fourstroke.serve import errors
from fourstroke.serve.bodies import read_json
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import ServingEngine
from fourstroke.serve.errors import ApiError, ErrorBody
from fourstroke.serve.handlers import EditInputs, RequestHandler
from fourstroke.serve.middleware import AuthMiddleware
from fourstroke.serve.schemas import EnhanceRequest, EnhanceResponse, ImageRequest
from fourstroke.version import __version__

SCRIPTS = ("studio", "api", "dom", "loras", "mask", "settings", "stage")
STUDIO = {"/": ("index.html", "text/html"), "/studio.css": ("studio.css", "text/css")}
STUDIO |= {f"/{name}.js": (f"{name}.js", "text/javascript") for name in SCRIPTS}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
POLICY += "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 408, 413, 429, 500, 503, 504)
}
PICTURES = {"type": "object", "required": ["created", "data", "usage"], "additionalProperties": True}
DRAWN: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The pictures, or the events of drawing them",
        "content": {"application/json": {"schema": PICTURES}, "text/event-stream": {"schema": {"type": "string"}}},
    }
}


def create_app(engine: ServingEngine, config: ServeConfig) -> FastAPI:
    """The application; it starts the engine and, at shutdown, lets it finish what it has accepted."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="fourstroke", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    app.add_middleware(AuthMiddleware, config=config, metrics=engine.metrics)
    if config.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=config.cors_origins, allow_methods=["*"], allow_headers=["*"])
    handler = RequestHandler(engine, config)

    @app.post(
        "/v1/images/generations", responses={**DRAWN, **REFUSALS}, response_model=None,
        openapi_extra=_body("application/json", _schema(ImageRequest)),
    )  # fmt: skip
    async def generations(http: Request) -> Response:
        """Draw pictures from words."""
        asked = await read_json(http, ImageRequest)
        return await handler.draw(asked, EditInputs([], None), http, "image_generation")

    @app.post(
        "/v1/images/edits", responses={**DRAWN, **REFUSALS}, response_model=None,
        openapi_extra=_body("multipart/form-data", _form()),
    )  # fmt: skip
    async def edits(http: Request) -> Response:
        """Draw pictures from words and input images, sent as `image` (one) or `image[]` (several).

        A `mask` of the first image's size keeps that image wherever it is not transparent.
        """
        asked, edit = await handler.read_form(http)
        return await handler.draw(asked, edit, http, "image_edit")

    @app.post(
        "/v1/prompts/enhance",
        responses=REFUSALS,
        openapi_extra=_body("application/json", _schema(EnhanceRequest)),
    )
    async def enhance(http: Request) -> EnhanceResponse:
        """Have a prompt rewritten, to look at it before it is drawn."""
        return await handler.rewrite(await read_json(http, EnhanceRequest))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model of this server, with what it can do."""
        return {"object": "list", "data": [handler.model()]}

    @app.get("/v1/models/{name}", responses={404: {"model": ErrorBody}})
    async def model(name: str) -> dict[str, Any]:
        """The same by name."""
        if name != engine.model.card.info.name:
            raise ApiError(404, f"there is no model {name!r} here", param="model", code="model_not_found")
        return handler.model()

    @app.get("/health", responses={503: {"description": "warming up, draining or broken"}})
    async def health() -> JSONResponse:
        """200 once warm; 503 before, while draining, and after a failed warm-up."""
        state = "draining" if engine.draining else "ready" if engine.ready.is_set() else "warming up"
        state = f"broken: {engine.error}" if engine.error else state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counts for Prometheus."""
        engine.gauge()
        return PlainTextResponse(engine.metrics.text(), media_type="text/plain; version=0.0.4")

    for path, (name, kind) in STUDIO.items():
        app.add_api_route(path, _page(name, kind), include_in_schema=False)
    for route in app.openapi()["paths"].values():
        for operation in route.values():
            operation["responses"].pop("422", None)  # what FastAPI would answer; ours is 400 with the reason
    return app


def _page(name: str, kind: str) -> Callable[[], Any]:
    async def page() -> Response:
        data = resources.files("fourstroke.serve").joinpath("studio", name).read_bytes()
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return Response(data, media_type=kind, headers=headers)

    return page


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a request, parts and all: references would be sought at the root of the whole document."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inlined(parts[value["$ref"].rpartition("/")[2]])
            return {key: inlined(entry) for key, entry in value.items()}
        return [inlined(entry) for entry in value] if isinstance(value, list) else value

    return inlined(schema)


def _body(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _form() -> dict[str, Any]:
    """The schema of an edit's form: the fields of a drawing and the images."""
    schema = _schema(ImageRequest)
    file = {"type": "string", "format": "binary"}
    images = {"image": file, "image[]": {"type": "array", "items": file}, "mask": file}
    return schema | {"properties": {**schema["properties"], **images}}
