"""Standard output and error that may go away: whoever reads them does not decide how long the work takes.

Nor does what they can show: a character that their encoding does not have is spelled out, as `\\u732b`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Stream:
    """A text stream whose writes never fail: once nobody reads it, or its disk is full, it goes on into nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As the stream does."""
        try:
            return self._stream.write(text)
        except OSError:
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """As the stream does."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Lead the descriptor itself away, so that what the buffer still holds has somewhere to go."""
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, self._stream.fileno())
        os.close(nothing)


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Within the block what is printed never raises."""
    with contextlib.ExitStack() as stack:
        streams = []
        for stream, redirect in (
            (sys.stdout, contextlib.redirect_stdout),
            (sys.stderr, contextlib.redirect_stderr),
        ):
            if stream is None:  # closed before Python began
                stream = stack.enter_context(open(os.devnull, "w"))
            if isinstance(stream, io.TextIOWrapper):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
            streams.append(_Stream(stream))
            stack.enter_context(redirect(cast(TextIO, streams[-1])))
        try:
            yield
        finally:
            for each in streams:
                each.flush()


def collect_rarely() -> None:
    """Let Python look for garbage in cycles less often, and not at its exit; saves two seconds of each command.

    The libraries make half a million objects when they are imported, which are walked through again and again else.
    """
    gc.set_threshold(10_000, 20, 20)
    atexit.register(gc.freeze)
