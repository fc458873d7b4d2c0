"""What scenes have behind their things, on the way to a short prompt: background, texture and light."""

from __future__ import annotations

import numpy as np

from fourstroke.world import short_prompts
from fourstroke.world.graph import Scene


class Surroundings:
    """What is still said of a scene's surroundings, in `phrases`, and whether the whole is worded casually."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        background = scene.background
        stated, self._vague_background, self._background = short_prompts.background_phrase(background, rng)
        texture = short_prompts.TEXTURES.get(background.texture)
        light = short_prompts.LIGHTS.get(background.light)
        self.scene, self.rng = scene, rng
        self.phrases = {
            "background": stated,
            "texture": texture[0] if texture else "",
            "light": light[0] if light else "",
        }
        self._vague = {"texture": texture[1] if texture else "", "light": light[1] if light else ""}
        self.casual, self.background_stated = False, True

    def _lose_background(self, blur: bool) -> str:
        if self.scene.background.kind == "transparent":  # whoever wants a sticker says so
            return ""
        self.background_stated = False
        self.phrases["background"] = self._vague_background if blur else ""
        return f"Background: {self._background}."

    def _lose_phrase(self, key: str, blur: bool) -> str:
        phrase = self.phrases[key]
        if phrase:
            self.phrases[key] = self._vague[key] if blur else ""
        return f"{key.capitalize()}: {phrase}." if phrase else ""

    def _lose_wording(self, blur: bool) -> str:
        self.casual = True
        return "Say it plainly."
