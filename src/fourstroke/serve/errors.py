"""Refusals in the form of OpenAI's API: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from fourstroke.serve.scheduler import Draining, QueueFull


class ErrorDetail(BaseModel):
    """What was wrong, and where."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class ApiError(HTTPException):
    """An answer other than 200, with its reason."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def body_of(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The error object."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()


def response_of(error: HTTPException) -> JSONResponse:
    """The whole answer."""
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    return JSONResponse(
        body_of(error.status_code, str(error.detail), param, code), error.status_code, headers=error.headers
    )


def of_engine(error: Exception) -> ApiError:
    """What an error of the engine means to the caller."""
    if isinstance(error, QueueFull):
        retry = {"Retry-After": str(error.retry_after)}
        return ApiError(429, f"{error}; try again in {error.retry_after} s", code="queue_full", headers=retry)
    if isinstance(error, Draining):
        return ApiError(503, str(error), code="draining", headers={"Retry-After": "5"})
    if isinstance(error, ValueError):
        return ApiError(400, str(error))
    if isinstance(error, TimeoutError):
        return ApiError(504, "the picture took longer than this server allows", code="timeout")
    return ApiError(500, f"the picture could not be drawn: {type(error).__name__}", code="drawing_failed")


def install(app: FastAPI) -> None:
    """Let every error of the app leave in this form."""

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if not isinstance(error, ApiError):  # of the router
            allowed = (error.headers or {}).get("Allow")
            hint = f"is answered to {allowed}" if allowed else "is nothing here; /openapi.json lists what there is"
            error.detail = f"{error.detail}: {request.url.path} {hint}"
        return response_of(error)

    async def unforeseen(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse(body_of(500, f"internal error: {type(error).__name__}"), 500)

    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unforeseen)


def of_validation(errors: list[Any], known: Iterable[str]) -> ApiError:
    """The first thing that pydantic found among the fields that are `known`."""
    first = errors[0]
    where, message = ".".join(map(str, first["loc"])), str(first["msg"])
    if first["type"] == "missing":
        message = "it is missing; this field is always needed"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where, known, 1)
        message = "unknown parameter; " + (f"is {near[0]} meant?" if near else "leave it out")
    return ApiError(400, f"{where}: {message}", param=where, code=first["type"])
