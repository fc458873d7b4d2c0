"""Counts for Prometheus, in its text format."""

from __future__ import annotations

import threading
from collections.abc import Sequence

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows, one for each set of labels."""

    kind = "counter"

    def __init__(self, name: str, help_text: str) -> None:
        self.name, self.help_text = name, help_text
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        """Count."""
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0) + amount

    def value(self, **labels: str) -> float:
        """What has been counted under these labels."""
        return self._values.get(tuple(sorted(labels.items())), 0)

    def lines(self) -> list[str]:
        """Samples in the text format."""
        with self._lock:
            values = dict(self._values) or {(): 0}
        return [f"{self.name}{_braces(key)} {value:g}" for key, value in values.items()]


class Gauge(Counter):
    """A number that goes up and down."""

    kind = "gauge"

    def set(self, value: float) -> None:
        """Replace the value."""
        with self._lock:
            self._values[()] = value


class Histogram:
    """How values spread, in seconds unless told."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, bounds: Sequence[float] = SECONDS) -> None:
        self.name, self.help_text, self.bounds = name, help_text, tuple(bounds)
        self._counts, self._sum, self._lock = [0] * (len(self.bounds) + 1), 0.0, threading.Lock()

    def observe(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[next((i for i, bound in enumerate(self.bounds) if value <= bound), -1)] += 1
            self._sum += value

    def lines(self) -> list[str]:
        """Samples in the text format."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        out, below = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts):
            below += count
            out.append(f'{self.name}_bucket{{le="{bound}"}} {below}')
        return [*out, f"{self.name}_sum {total:g}", f"{self.name}_count {below}"]


class Metrics:
    """Everything the server counts."""

    def __init__(self) -> None:
        self.requests = Counter("fourstroke_requests_total", "Requests by route and status.")
        self.pictures = Counter("fourstroke_pictures_total", "Pictures by outcome: done, cancelled, failed, refused.")
        self.steps = Counter("fourstroke_steps_total", "Steps of batches.")
        self.rows = Counter("fourstroke_rows_total", "Pictures advanced by a step, summed over steps.")
        self.prefix_hits = Gauge("fourstroke_prefix_cache_hits", "Prefixes found in the cache.")
        self.prefix_misses = Gauge("fourstroke_prefix_cache_misses", "Prefixes computed.")
        self.prefix_bytes = Gauge("fourstroke_prefix_cache_bytes", "Memory of the cached prefixes.")
        self.waiting = Gauge("fourstroke_pictures_waiting", "Pictures in the queue.")
        self.running = Gauge("fourstroke_pictures_running", "Pictures being drawn.")
        self.ready = Gauge("fourstroke_ready", "1 once warm, 0 before and while draining.")
        self.wait_seconds = Histogram("fourstroke_wait_seconds", "Time of a picture in the queue.")
        self.draw_seconds = Histogram("fourstroke_draw_seconds", "Time of a picture from its first step to its end.")
        self.preview_seconds = Histogram("fourstroke_preview_seconds", "Time until the first partial image.")

    def text(self) -> str:
        """The exposition, format version 0.0.4."""
        lines = []
        for metric in vars(self).values():
            lines += [f"# HELP {metric.name} {metric.help_text}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"


def _braces(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = ((k, v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for k, v in labels)
    return "{" + ",".join(f'{k}="{v}"' for k, v in escaped) + "}"
