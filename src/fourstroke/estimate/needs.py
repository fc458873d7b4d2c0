"""What a run needs, as one table: memory by part on each rank, operations a step, hours at a given speed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30
FLOAT32 = 4
MOMENTS = {"adamw": 8, "muon": 4, "8 bits": 2}
"""Bytes a weight that an optimiser keeps."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """GiB by part on each rank, 10^12 operations a step on each, and how many steps there are.

    What the memory leaves out: the allocator's own overhead (about a tenth) and what PyTorch itself takes.
    """

    memory: Mapping[str, float]
    teraflops: float
    steps: int
    ranks: int = 1
    notes: tuple[str, ...] = ()

    @property
    def gib(self) -> float:
        """All parts together, on one rank."""
        return sum(self.memory.values())

    def hours(self, speed: float) -> float:
        """Hours of all steps at `speed` 10^12 operations a second; ValueError unless that is a number above 0."""
        if not 0 < speed < math.inf:
            raise ValueError(f"a speed of {speed:g} x 10^12 operations a second: choose a number above 0")
        return self.steps * self.teraflops / speed / 3600

    def report(self, speed: float) -> str:
        """Lines of text; `speed` is in 10^12 operations a second, of those that are really reached."""
        where = f" on each of {self.ranks} ranks" if self.ranks > 1 else ""
        lines = [f"{name:<52} {value:8.2f} GiB" for name, value in self.memory.items() if value >= 0.005]
        lines.append(f"{f'in all{where}':<52} {self.gib:8.2f} GiB")
        lines.append(f"{f'operations a step{where}':<52} {self.teraflops:8.1f} x 10^12")
        timing = f"{self.steps} steps at {speed:g} x 10^12 a second"
        lines.append(f"{timing:<52} {self.hours(speed):8.2f} hours")
        return "\n".join([*lines, *(f"({note})" for note in self.notes)])


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Weights that are trained: how many, and how many of them are matrices that Muon would move."""

    numbers: int
    matrices: int = 0

    def memory(
        self, name: str, optimizer: str, *, average: bool = True, eight_bit: bool = False, shards: int = 1
    ) -> dict[str, float]:
        """GiB of float32 weights, moments and moving average, of which each rank holds one of `shards` parts."""
        matrices = self.matrices if optimizer == "muon" else 0
        rest = MOMENTS["8 bits" if eight_bit else "adamw"] * (self.numbers - matrices)
        gib = self.numbers * FLOAT32 / GIB / shards
        return {
            f"{name}, trained": gib,
            f"{name}, moments of the optimiser": (MOMENTS["muon"] * matrices + rest) / GIB / shards,
            **({f"{name}, moving average": gib} if average else {}),
        }

    def passing(self, kept: float, accumulate: int = 1, shards: int = 1) -> dict[str, float]:
        """GiB of what comes and goes: gradients, and `kept` bytes of activations.

        In one backward pass gradients take the place of activations, so that the larger counts; where several
        micro-batches add up they are there together. The copy of the weights that is made while pictures are drawn is
        as large as the gradients, which are not there then.
        """
        gradients = self.numbers * FLOAT32 / shards
        peak = max(kept, gradients) if accumulate == 1 else kept + gradients
        return {"gradients and activations, at their peak": peak / GIB}
