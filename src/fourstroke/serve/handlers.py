"""From a request to its response: checks what is asked, follows the jobs, hands pictures out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from PIL import Image
from starlette.datastructures import UploadFile
from starlette.types import Receive, Scope, Send

from fourstroke.device import trim_heap
from fourstroke.enhance.enhancer import Enhanced
from fourstroke.serve import errors, schemas
from fourstroke.serve.batch import GenerationRequest
from fourstroke.serve.bodies import json_of, read_form, validated
from fourstroke.serve.config import ServeConfig
from fourstroke.serve.engine import ServingEngine
from fourstroke.serve.errors import ApiError
from fourstroke.serve.jobs import Done, Event, Failed, Job, Preview
from fourstroke.serve.kv_cache import NeverFits
from fourstroke.serve.responses import ImageResponse, encode, picture_note, sse
from fourstroke.serve.scheduler import Draining, QueueFull
from fourstroke.serve.schemas import EnhanceResponse, ImageRequest
from fourstroke.serve.uploads import fit_mask, read_upload
from fourstroke.sizes import fit, multiple, shaped

T = TypeVar("T")
SLACK = 10.0
"""Seconds that a client has to take the last event of a stream."""
IMAGES = ("image", "image[]", "mask")
"""The fields of an edit's form that are files."""
Inbox = asyncio.Queue[tuple[int, Event]]


class EditInputs(NamedTuple):
    """What an edit starts from."""

    inputs: list[Image.Image]
    mask: Image.Image | None


class RequestHandler:
    """Serves requests with one engine."""

    def __init__(self, engine: ServingEngine, config: ServeConfig) -> None:
        self.engine, self.config = engine, config
        self._decoding = asyncio.Semaphore(2)  # uploads decoded at once: bounds their memory
        self._enhancing, self._rewrites = asyncio.Semaphore(1), 0

    def model(self) -> dict[str, Any]:
        """The model object, with what a client must know beyond OpenAI's fields."""
        card, config = self.engine.model.card, self.config
        info = card.info
        own = {
            "version": card.version, "width": info.width, "height": info.height, "max_side": info.max_side,
            "multiple": multiple(info), "guidance_scale": info.guidance_scale, "num_inference_steps": info.own_steps,
            "fixed_steps": bool(info.sample_sigmas), "max_steps": config.max_steps, "max_n": config.max_n,
            "max_previews": config.max_previews, "max_prompt_tokens": card.max_prompt_tokens,
            "max_input_images": config.input_images, "enhances": card.enhances,
            "loras": [{"name": name, "strength": strength} for name, strength in card.loras.items()],
        }  # fmt: skip
        return {"id": info.name, "object": "model", "created": 0, "owned_by": "fourstroke", "fourstroke": own}

    async def rewrite(self, asked: schemas.EnhanceRequest) -> EnhanceResponse:
        """What the enhancer makes of a prompt; nothing is drawn."""
        card = self.engine.model.card
        found = await self._enhance(asked.prompt, [], asked.seed or 0)
        try:
            width, height = shaped(found.ratio, card.info)
        except ValueError:  # a shape that the model does not draw: the client chooses one
            width = height = None
        return EnhanceResponse(
            created=int(time.time()), request=asked.prompt, prompt=found.prompt or asked.prompt,
            size=f"{width}x{height}" if width else "auto", reasoning=found.reasoning, warning=found.warning,
        )  # fmt: skip

    async def draw(self, asked: ImageRequest, edit: EditInputs, http: Request, kind: str) -> Response:
        """Queue the pictures of a request and answer with them, whole or as a stream."""
        model = self.engine.model
        card, seed = model.card, asked.settle()
        asked.check(card, self.config)
        asked.requests(card, *edit)  # refuses what is wrong before anything is computed
        tokens = await self._count(asked.prompt)
        if asked.negative_prompt:
            await self._count(asked.negative_prompt)
        rewrite = None
        if asked.enhance:
            rewrite = await self._enhance(asked.prompt, edit.inputs, seed, asked.transparent)
            try:
                tokens = await self._count(rewrite.prompt)
            except ApiError:
                rewrite = None  # longer than the model reads: the user's own words
        requests = asked.requests(card, *edit, rewrite)
        await self._check_memory(requests[0])
        response = ImageResponse(asked, requests, tokens, kind)
        user = f"{http.state.caller}/{asked.safety_identifier or asked.user or ''}"
        inbox: Inbox = asyncio.Queue()
        loop, previews = asyncio.get_running_loop(), asked.partial_images or 0
        jobs = [
            Job(request, _listener(loop, inbox, index), user=user, previews=previews)
            for index, request in enumerate(requests)
        ]
        try:
            self.engine.submit(jobs)
        except (QueueFull, Draining) as error:
            raise errors.of_engine(error) from None
        if asked.stream:
            seconds = self.config.request_seconds + SLACK
            return _Stream(self._events(response, inbox), lambda: self.engine.cancel(jobs), seconds)
        try:
            return await self._whole(response, inbox, http)
        finally:
            self.engine.cancel(jobs)

    async def read_form(self, http: Request) -> tuple[ImageRequest, EditInputs]:
        """The fields, images and mask of an edit."""
        values: dict[str, Any] = {}
        uploads: list[tuple[str, UploadFile]] = []
        masks: list[UploadFile] = []
        async with read_form(http, self.config.input_images) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name not in IMAGES or (name == "mask" and masks):
                        raise ApiError(400, f"{name}: only image, image[] and one mask may be files", param=name)
                    if name == "mask":
                        masks.append(value)
                    else:
                        uploads.append((name, value))
                elif value in ("", "null") and name != "prompt":  # how forms say null
                    continue
                elif name.startswith(("image", "mask")):
                    field = "mask" if name == "mask" else "image"
                    message = (
                        f"{name}: send the picture itself, as a file (curl -F {field}=@cat.png); no URL is fetched"
                    )
                    raise ApiError(400, message, param=name)
                elif name == "lora":
                    values[name] = json_of("lora", value)
                else:
                    values[name] = value
            asked = validated(ImageRequest, values)
            card = self.engine.model.card
            asked.check(card, self.config)
            if not 0 < len(uploads) <= self.config.input_images:
                message = f"{len(uploads)} images were sent; send 1 to {self.config.input_images} as image or image[]"
                raise ApiError(400, message, param="image")

            def fitted(image: Image.Image) -> tuple[tuple[int, int], Image.Image]:
                return image.size, fit(image, card.info)

            read = [await self._decode(upload, name, fitted) for name, upload in uploads]
            (sent, first), *_ = read

            def mask_fitted(mask: Image.Image) -> Image.Image:
                return fit_mask(mask, sent, first.size)

            mask = await self._decode(masks[0], "mask", mask_fitted) if masks else None
            return asked, EditInputs([image for _, image in read], mask)

    async def _decode(self, upload: UploadFile, name: str, then: Callable[[Image.Image], T]) -> T:
        """What `then` makes of an upload; only that is kept, whatever the upload's size."""
        async with self._decoding:
            data = await upload.read()
            try:
                return await asyncio.to_thread(lambda: then(read_upload(data, name, self.config.input_pixels)))
            except ValueError as error:
                raise ApiError(400, f"{name}: {error}", param=name) from None

    async def _count(self, prompt: str) -> int:
        try:
            return await asyncio.to_thread(self.engine.model.count_tokens, prompt)
        except ValueError as error:
            raise ApiError(400, str(error), param="prompt", code="prompt") from None

    async def _check_memory(self, request: GenerationRequest) -> None:
        """Refuse a picture that could never be drawn, before it waits."""
        model = self.engine.model
        budget = model.card.kv_budget
        try:
            need = await asyncio.to_thread(budget.need, request, model.prefix_tokens)
            await asyncio.to_thread(budget.check, request, need, model.prefix_tokens)
        except NeverFits as error:
            raise errors.of_engine(error) from None

    async def _enhance(
        self, prompt: str, images: Sequence[Image.Image], seed: int, transparent: bool = False
    ) -> Enhanced:
        """One rewrite after the other; as many may wait as pictures may."""
        model = self.engine.model
        if not model.card.enhances:
            raise schemas.no_enhancer(model.card)
        if self.engine.draining:
            raise errors.of_engine(Draining("the server is shutting down; try another"))
        if self._rewrites > self.config.queue:
            raise errors.of_engine(QueueFull(f"{self._rewrites} prompts are waiting already", 5))
        self._rewrites += 1
        try:
            async with asyncio.timeout(self.config.request_seconds), self._enhancing:
                return await asyncio.to_thread(model.enhance, prompt, images, seed, transparent)
        except (TimeoutError, ValueError) as error:
            raise errors.of_engine(error) from None
        finally:
            self._rewrites -= 1

    async def _whole(self, response: ImageResponse, inbox: Inbox, http: Request) -> Response:
        """Wait for all pictures, or for the client to go away."""
        pictures = asyncio.ensure_future(self._collect(response, inbox))
        gone = asyncio.ensure_future(_gone(http))
        try:
            async with asyncio.timeout(self.config.request_seconds):
                await asyncio.wait((pictures, gone), return_when=asyncio.FIRST_COMPLETED)
            if not pictures.done():
                return Response(status_code=499)  # nobody is there to read it
            length, parts = response.body(pictures.result())
            headers = {"Content-Length": str(length)}
            return StreamingResponse(parts, media_type="application/json", headers=headers)
        except TimeoutError as error:
            raise errors.of_engine(error) from None
        finally:
            pictures.cancel()
            gone.cancel()

    async def _collect(self, response: ImageResponse, inbox: Inbox) -> list[bytes]:
        done: dict[int, bytes] = {}
        while len(done) < len(response.requests):
            index, event = await inbox.get()
            if isinstance(event, Failed):
                raise errors.of_engine(event.error)
            if isinstance(event, Done):
                done[index] = await self._encode(response, index, event)
        return [done[index] for index in range(len(done))]

    async def _events(self, response: ImageResponse, inbox: Inbox) -> AsyncIterator[bytes]:
        """Partial images and pictures as they come; comments while there is nothing to tell."""
        yield b": accepted\n\n"
        left, shown = len(response.requests), [0] * len(response.requests)
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
                data = await self._encode(response, index, event)
                if isinstance(event, Preview):
                    yield sse(*response.partial(index, shown[index], data, event.step, event.steps))
                    shown[index] += 1
                else:
                    left -= 1
                    yield sse(*response.completed(index, data))
        except ApiError as error:
            body = errors.body_of(error.status_code, str(error.detail), error.param, error.code)
            yield sse("error", {"type": "error", **body})

    async def _encode(self, response: ImageResponse, index: int, event: Preview | Done) -> bytes:
        def work() -> bytes:  # the note digests the inputs
            note = picture_note(response.requests[index], self.engine.model.card) if isinstance(event, Done) else None
            data = encode(event.image, response.asked, note)
            trim_heap(event.image.width * event.image.height)  # of what decoding and compressing left in each thread
            return data

        return await asyncio.to_thread(work)


class _Stream(StreamingResponse):
    """Server-sent events; `end` is called however the stream ends, even before its first event.

    A client that reads nothing for `seconds` in all loses its connection: its pictures wait in memory.
    """

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None], seconds: float) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self.end, self.seconds = end, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self.seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            pass  # a response that ends unfinished is a connection that is closed
        finally:
            self.end()


def _listener(loop: asyncio.AbstractEventLoop, inbox: Inbox, index: int) -> Callable[[Event], None]:
    """Carries the events of one picture from the engine's thread to the loop."""

    def listen(event: Event) -> None:
        loop.call_soon_threadsafe(inbox.put_nowait, (index, event))

    return listen


async def _gone(http: Request) -> None:
    """Return when the client has gone away."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
