"""OpenAI's image API over the engine, with partial images while a picture is being drawn."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from PIL import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.types import Receive, Scope, Send

from fourstroke.pipeline import MULTIPLE
from fourstroke.serve import errors
from fourstroke.serve.answers import Answer, encode, recipe, sse
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import Done, Draining, Engine, Event, Failed, Job, Preview, QueueFull
from fourstroke.serve.errors import ApiError, ErrorBody
from fourstroke.serve.fields import Drawing
from fourstroke.serve.guard import Guard
from fourstroke.serve.uploads import read_upload
from fourstroke.version import __version__

STUDIO = {
    "/": ("index.html", "text/html"),
    "/studio.css": ("studio.css", "text/css"),
    "/studio.js": ("studio.js", "text/javascript"),
    "/recipe.js": ("recipe.js", "text/javascript"),
}
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


def create_app(engine: Engine, config: ServeConfig) -> FastAPI:
    """The application; it starts the engine and, at shutdown, lets it finish what it has accepted."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.close)

    app = FastAPI(title="fourstroke", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    errors.install(app)
    app.add_middleware(Guard, config=config, metrics=engine.metrics)
    if config.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=config.cors_origins, allow_methods=["*"], allow_headers=["*"])
    desk = Desk(engine, config)

    @app.post("/v1/images/generations", responses={**DRAWN, **REFUSALS}, response_model=None)
    async def generations(drawing: Drawing, request: Request) -> Response:
        """Draw pictures from words."""
        return await desk.draw(drawing, [], request, "image_generation")

    @app.post(
        "/v1/images/edits", responses={**DRAWN, **REFUSALS}, response_model=None,
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form()}}}},
    )  # fmt: skip
    async def edits(request: Request) -> Response:
        """Draw pictures from words and input images, sent as `image` (one) or `image[]` (several)."""
        drawing, inputs = await desk.read_form(request)
        return await desk.draw(drawing, inputs, request, "image_edit")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model of this server, with what it can do."""
        return {"object": "list", "data": [desk.model()]}

    @app.get("/v1/models/{name}", responses={404: {"model": ErrorBody}})
    async def model(name: str) -> dict[str, Any]:
        """The same by name."""
        if name != engine.painter.pipe.info.name:
            raise ApiError(404, f"there is no model {name!r} here", param="model", code="model_not_found")
        return desk.model()

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
    return app


class Desk:
    """Takes requests in, follows their jobs, hands pictures out."""

    def __init__(self, engine: Engine, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self._decoding = asyncio.Semaphore(2)  # uploads decoded at once: bounds their memory

    def model(self) -> dict[str, Any]:
        """The model object, with what a client must know beyond OpenAI's fields."""
        pipe, config = self.engine.painter.pipe, self.config
        own = {
            "version": self.engine.painter.version, "width": pipe.info.width, "height": pipe.info.height,
            "max_side": pipe.info.max_side, "multiple": MULTIPLE, "guidance_scale": pipe.info.guidance_scale,
            "num_inference_steps": len(pipe.info.sample_sigmas or ()) or pipe.info.num_inference_steps,
            "fixed_steps": bool(pipe.info.sample_sigmas), "max_steps": config.max_steps, "max_n": config.max_n,
            "max_previews": config.max_previews, "max_prompt_tokens": pipe.text_encoder.max_tokens,
            "max_input_images": config.input_images,
        }  # fmt: skip
        return {"id": pipe.info.name, "object": "model", "created": 0, "owned_by": "fourstroke", "fourstroke": own}

    async def draw(self, drawing: Drawing, inputs: list[Image.Image], request: Request, kind: str) -> Response:
        """Queue the pictures of a request and answer with them, whole or as a stream."""
        painter = self.engine.painter
        drawing.check(painter.pipe, self.config)
        orders = drawing.orders(painter.pipe, inputs)
        try:
            tokens = await asyncio.to_thread(painter.count_tokens, drawing.prompt)
            if drawing.negative_prompt:
                await asyncio.to_thread(painter.count_tokens, drawing.negative_prompt)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt", code="prompt") from None
        answer = Answer(drawing, orders, tokens, kind)
        user = f"{request.state.caller}/{drawing.safety_identifier or drawing.user or ''}"
        inbox: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        hand = _hand_over(asyncio.get_running_loop(), inbox)
        previews = drawing.partial_images or 0
        jobs = [Job(order, hand(index), user=user, previews=previews) for index, order in enumerate(orders)]
        try:
            self.engine.submit(jobs)
        except (QueueFull, Draining) as error:
            raise errors.of_engine(error) from None
        if drawing.stream:
            return _Stream(self._events(answer, inbox), lambda: self.engine.cancel(jobs))
        try:
            return await self._whole(answer, inbox, request)
        finally:
            self.engine.cancel(jobs)

    async def _whole(self, answer: Answer, inbox: asyncio.Queue[tuple[int, Event]], request: Request) -> Response:
        """Wait for all pictures, or for the client to go away."""
        pictures = asyncio.ensure_future(self._collect(answer, inbox))
        gone = asyncio.ensure_future(_gone(request))
        try:
            async with asyncio.timeout(self.config.request_seconds):
                await asyncio.wait((pictures, gone), return_when=asyncio.FIRST_COMPLETED)
            if not pictures.done():
                return Response(status_code=499)  # nobody is there to read it
            return JSONResponse(answer.body(pictures.result()))
        except TimeoutError as error:
            raise errors.of_engine(error) from None
        finally:
            pictures.cancel()
            gone.cancel()

    async def _collect(self, answer: Answer, inbox: asyncio.Queue[tuple[int, Event]]) -> list[bytes]:
        done: dict[int, bytes] = {}
        while len(done) < len(answer.orders):
            index, event = await inbox.get()
            if isinstance(event, Failed):
                raise errors.of_engine(event.error)
            if isinstance(event, Done):
                done[index] = await self._encode(answer, index, event)
        return [done[index] for index in range(len(done))]

    async def _events(self, answer: Answer, inbox: asyncio.Queue[tuple[int, Event]]) -> AsyncIterator[bytes]:
        """Partial images and pictures as they come; comments while there is nothing to tell."""
        yield b": accepted\n\n"
        left, shown = len(answer.orders), [0] * len(answer.orders)
        deadline = time.monotonic() + self.config.request_seconds
        try:
            while left:
                if time.monotonic() > deadline:
                    raise errors.of_engine(TimeoutError())
                try:
                    index, event = await asyncio.wait_for(inbox.get(), self.config.keep_alive_seconds)
                except TimeoutError:
                    yield b": keep-alive\n\n"
                    continue
                if isinstance(event, Failed):
                    raise errors.of_engine(event.error)
                data = await self._encode(answer, index, event)
                if isinstance(event, Preview):
                    yield sse(*answer.partial(index, shown[index], data, event.step, event.steps))
                    shown[index] += 1
                else:
                    left -= 1
                    yield sse(*answer.completed(index, data))
        except ApiError as error:
            body = errors.body_of(error.status_code, str(error.detail), error.param, error.code)
            yield sse("error", {"type": "error", **body})

    async def _encode(self, answer: Answer, index: int, event: Preview | Done) -> bytes:
        note = recipe(answer.orders[index], self.engine.painter) if isinstance(event, Done) else None
        return await asyncio.to_thread(encode, event.image, answer.drawing, note)

    async def read_form(self, request: Request) -> tuple[Drawing, list[Image.Image]]:
        """The fields and images of an edit."""
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(400, "send the images as multipart/form-data", code="content_type")
        fields: dict[str, str] = {}
        uploads: list[tuple[str, UploadFile]] = []
        async with request.form(max_files=self.config.input_images + 2, max_fields=64) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    fields[name] = value
                elif name in ("image", "image[]"):
                    uploads.append((name, value))
                else:
                    raise ApiError(400, f"{name}: only image and image[] may be files", param=name)
            try:
                drawing = Drawing.model_validate(fields)
            except ValidationError as error:
                raise errors.of_validation(list(error.errors())) from None
            drawing.check(self.engine.painter.pipe, self.config)
            if not 0 < len(uploads) <= self.config.input_images:
                message = f"{len(uploads)} images; send 1 to {self.config.input_images} as image or image[]"
                raise ApiError(400, message, param="image")
            return drawing, [await self._decode(upload, name) for name, upload in uploads]

    async def _decode(self, upload: UploadFile, name: str) -> Image.Image:
        data = await upload.read()
        async with self._decoding:
            return await asyncio.to_thread(
                read_upload, data, name, self.config.input_pixels, self.engine.painter.pipe.info
            )


class _Stream(StreamingResponse):
    """Server-sent events; `end` is called however the stream ends, even before its first event."""

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.end()


def _hand_over(
    loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[tuple[int, Event]]
) -> Callable[[int], Callable[[Event], None]]:
    """Listeners that carry events from the drawing thread to the loop."""
    return lambda index: lambda event: (loop.call_soon_threadsafe(inbox.put_nowait, (index, event)), None)[1]


async def _gone(request: Request) -> None:
    """Return when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _page(name: str, kind: str) -> Callable[[], Any]:
    async def page() -> Response:
        data = resources.files("fourstroke.serve").joinpath("studio", name).read_bytes()
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
        return Response(data, media_type=kind, headers=headers)

    return page


def _form() -> dict[str, Any]:
    """The schema of an edit's form: the fields of a drawing and the images."""
    schema = Drawing.model_json_schema()
    file = {"type": "string", "format": "binary"}
    images = {"image": file, "image[]": {"type": "array", "items": file}}
    return schema | {"properties": {**schema["properties"], **images}}
