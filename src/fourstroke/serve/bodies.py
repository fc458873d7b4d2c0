"""Bodies of requests, JSON and forms; what cannot be read is refused with a word on what to send."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from fourstroke.serve import errors
from fourstroke.serve.errors import ApiError
from fourstroke.serve.schemas import Fields

F = TypeVar("F", bound=Fields)
EXAMPLE = 'send a JSON object such as {"prompt": "a cat"}'
MOST_FILES, MOST_FIELDS = 1000, 64
"""Parts of a form that are read at all; how many images may be sent is told by their count."""


async def read_json(request: Request, kind: type[F]) -> F:
    """The fields of a JSON body.

    Raises:
        ApiError: 400 for another type, broken JSON, anything but an object, and wrong fields.
    """
    if (found := _type(request)) != "application/json" and not found.endswith("+json"):
        message = f"send the body as JSON, with the header Content-Type: application/json; this one says {found}"
        raise ApiError(400, message, code="content_type")
    body = await request.body()
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = f"not valid JSON: {_reason(error)}" if body.strip() else "empty"
        raise ApiError(400, f"the body is {reason}; {EXAMPLE}", code="json_invalid") from None
    if not isinstance(values, dict):
        raise ApiError(400, f"the body is no JSON object; {EXAMPLE}", code="json_invalid")
    return validated(kind, values)


@contextlib.asynccontextmanager
async def read_form(request: Request, images: int) -> AsyncIterator[FormData]:
    """The parts of an edit's form, which are closed at the end; `images` is how many may be sent.

    Raises:
        ApiError: 400 for another type, or a form that cannot be taken apart.
    """
    wanted = f"send a form of the type multipart/form-data with 1 to {images} files as image or image[], the prompt"
    wanted += " and other fields as text (curl -F image=@cat.png -F prompt=...)"
    if (found := _type(request)) != "multipart/form-data":
        raise ApiError(400, f"{wanted}; this one says {found}", code="content_type")
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS)
    except HTTPException as error:
        if isinstance(error, ApiError):  # of the limits on bodies
            raise
        raise ApiError(400, f"the form cannot be read: {str(error.detail).rstrip('.')}; {wanted}") from None
    try:
        yield form
    finally:
        await form.close()


def json_of(name: str, text: str) -> Any:
    """The value of a form's field that is JSON; raises ApiError 400 for what is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"{name}: not valid JSON: {_reason(error)}", param=name, code="json_invalid") from None


def validated(kind: type[F], values: dict[str, Any]) -> F:
    """The fields, or an `ApiError` for the first that is wrong."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise errors.of_validation(list(error.errors()), kind.model_fields) from None


def _type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() or "nothing"


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return "it is nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
