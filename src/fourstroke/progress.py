"""How far long work is: a bar with rate and time left where somebody looks, plain lines where nobody does.

All of it is on standard error, so that what a command prints can be piped. Bars are tqdm's, which hugging face's
downloads show too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

EVERY = 10.0
"""Seconds between plain lines."""
ROUGH = "{desc} {percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} left{postfix}"
"""Of work whose parts are not counted."""

OnPicture = Callable[[int, int], None]
"""Called with the pictures done and their number."""


def live() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Print a line on standard output, above the bars."""
    if live():
        tqdm.write(text, file=sys.stdout)
    else:
        print(text)
    sys.stdout.flush()


class Progress:
    """Of `total` things, of which `done` are done so far; use it as a context, or let it end by itself at `total`.

    Plain lines come every ten seconds and at the end; `lines=False` leaves them out, for work that tells by itself.
    """

    def __init__(self, what: str, total: float, unit: str = "pictures", *, done: float = 0, lines: bool = True) -> None:
        self.what, self.total, self.unit, self.lines = what, total, unit, lines
        self.before = self.done = done
        self.start = self.told = time.monotonic()
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def to(self, done: float, note: str = "") -> None:
        """So many are done; `note` stands behind the bar."""
        self.done = done
        if live():
            self._draw(note)
        elif self.lines:
            self._tell()
        if done >= self.total:
            self.close()

    def add(self, count: float = 1, note: str = "") -> None:
        """So many more are done."""
        self.to(self.done + count, note)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, note: str) -> None:
        if self._bar is None:
            shape = {} if self.unit else {"bar_format": ROUGH}
            self._bar = tqdm(
                total=self.total, initial=self.before, desc=self.what, unit=f" {self.unit}", file=sys.stderr,
                leave=None, **_width(), **shape,
            )  # fmt: skip
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(self.done - self._bar.n)

    def _tell(self) -> None:
        now = time.monotonic()
        if self.done < self.total and now - self.told < EVERY:
            return
        self.told, rate = now, (self.done - self.before) / max(now - self.start, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        of = f"{self.done}/{self.total} {self.unit}, {rate:.3g} a second" if self.unit else f"{_share(self)} %"
        print(f"{self.what}: {of}, {clock(left)} left", file=sys.stderr, flush=True)


def pictures(what: str) -> OnPicture:
    """Progress of something that calls back with the pictures done and their number."""
    progress: list[Progress] = []

    def on_picture(done: int, total: int) -> None:
        if not progress:
            progress.append(Progress(what, total))
        progress[0].to(done)

    return on_picture


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _width() -> dict[str, int | bool]:
    """The terminal's, also when it changes; some, such as those of containers, do not know theirs."""
    try:
        known = os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except OSError:
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


def _share(progress: Progress) -> str:
    return f"{100 * progress.done / progress.total:.0f}"
