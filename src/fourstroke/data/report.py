"""What became of a set of samples: how many are used, and which are not, by the stage that refused them and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from fourstroke.data.sample import SampleError

EXAMPLES = 3
"""Names of each stage in the printed form; the JSON has all of them."""


@dataclass
class Report:
    """Counts and names."""

    used: int = 0
    skipped: dict[str, tuple[str, str]] = field(default_factory=dict)
    """By name, the stage and the reason."""
    uncaptioned: list[str] = field(default_factory=list)
    """Names of samples that are used and have no caption."""

    def skip(self, name: str, error: SampleError) -> None:
        """Note that a sample is not used; its own name goes before the one that is given."""
        self.skipped[error.name or name] = error.stage, str(error)

    @property
    def counts(self) -> dict[str, int]:
        """Skipped samples by stage, the most first."""
        return dict(Counter(stage for stage, _ in self.skipped.values()).most_common())

    def __str__(self) -> str:
        bare = self._bare()
        named = f"{', '.join(bare[:EXAMPLES])}{', …' if len(bare) > EXAMPLES else ''}"
        used = f"{self.used} samples" + (f" ({len(bare)} without a caption: {named})" if bare else "")
        if not self.skipped:
            return f"{used}, none skipped"
        parts = []
        for stage, count in self.counts.items():
            found = [f"{name}: {why}" for name, (own, why) in self.skipped.items() if own == stage][:EXAMPLES]
            more = f"; and {count - len(found)} more" if count > len(found) else ""
            parts.append(f"{stage} {count} ({'; '.join(found)}{more})")
        return f"{used}, {len(self.skipped)} skipped: {', '.join(parts)}"

    def plain(self) -> dict[str, Any]:
        """The whole report as plain data."""
        by_stage: dict[str, dict[str, str]] = {stage: {} for stage in self.counts}
        for name, (stage, reason) in self.skipped.items():
            by_stage[stage][name] = reason
        return {"used": self.used, "counts": self.counts, "skipped": by_stage, "uncaptioned": self._bare()}

    def _bare(self) -> list[str]:
        return [name for name in self.uncaptioned if name not in self.skipped]
