"""The drawn world's held-out prompts as a suite, so that all of `eval prompts` runs without a download."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from fourstroke.evaluate.suites.suite import Plain, SuitePrompt, Wanted

PROMPTS = 200
"""Where no number is asked for."""


@dataclass(frozen=True)
class WorldSuite(Plain):
    """The drawn world's held-out prompts, short and rich ones in turn; `--source` names a dataset of another world."""

    kind: ClassVar[str] = "world"
    repeats: ClassVar[int] = 1
    scorer: ClassVar[str] = "fourstroke eval judge {folder}"

    def read(self, wanted: Wanted) -> Iterator[SuitePrompt]:
        """The first prompts of the world that the model, or the best bundled one, was trained on."""
        from fourstroke.folder import find_model, read_info
        from fourstroke.world.find import find_world
        from fourstroke.world.judging.composition import held_out_prompts
        from fourstroke.world.world import World

        remote = wanted.model is not None and wanted.model.startswith("openai:")
        folder = find_model(None if remote else wanted.model)
        config = find_world(wanted.source, folder, read_info(folder).name)
        for prompt in held_out_prompts(World(config), wanted.n or PROMPTS):
            scene = json.loads(json.dumps(prompt.scene.to_dict()))
            yield SuitePrompt(
                id=str(prompt.seed),
                text=prompt.caption,
                meta={"scene": scene, "rich": prompt.rich},
                size=prompt.size,
                transparent=prompt.transparent,
            )

    def place(self, prompt: SuitePrompt, repeat: int, repeats: int) -> str:
        """All in one folder."""
        return f"{int(prompt.id):06d}_{repeat}.png"
