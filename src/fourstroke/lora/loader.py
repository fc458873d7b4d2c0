"""What a pipeline does with adapters: load, set strengths, unload, merge."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import nn

from fourstroke.arguments import real
from fourstroke.lora.adapters import attach_lora, lora_strengths, remove_lora, set_lora
from fourstroke.lora.find import LoraSource, find_lora
from fourstroke.lora.merge import merge_lora, unmerge_lora
from fourstroke.lora.read import read_lora

MAX_STRENGTH = 10.0
"""The largest strength of an adapter, to either side."""


class LoraLoader:
    """A pipeline's methods for adapters of its transformer."""

    transformer: nn.Module

    @property
    def loras(self) -> dict[str, float]:
        """The adapters that are loaded, by name, with their strengths."""
        return lora_strengths(self.transformer)

    def load_lora(self, file: str | Path, strength: float = 1.0, name: str | None = None) -> str:
        """Load an adapter beside those that are loaded; returns its name.

        It is kept apart from the weights, so that its strength can be changed at any time.

        Args:
            file: a safetensors file of diffusers', PEFT's, ComfyUI's or kohya's layout; a folder that holds one; a hub
                id, `owner/name` or `owner/name/file.safetensors`.
            strength: -10 to 10; 1 is as its maker meant it, 0 switches it off.
            name: None is that of the file.

        Raises:
            CheckpointError: the file is missing or damaged, or holds a tensor that fits nothing here; it is named.
            ValueError: a name that is taken, a strength that is none, or adapters are merged.
        """
        source = LoraSource(str(file), name=name)
        strength = real("strength", strength, -MAX_STRENGTH, MAX_STRENGTH)
        changes = read_lora(find_lora(file), self.transformer)
        like = next(self.transformer.parameters())
        attach_lora(
            self.transformer,
            source.called,
            {
                layer: dataclasses.replace(change, down=change.down.to(like), up=change.up.to(like))
                for layer, change in changes.items()
            },
        )
        self.set_lora(source.called, strength)
        return source.called

    def set_lora(self, name: str, strength: float) -> None:
        """Change the strength of a loaded adapter; 0 switches it off, at no cost.

        Raises:
            ValueError: no adapter of the name, a strength that is none, or adapters are merged.
        """
        strength = real("strength", strength, -MAX_STRENGTH, MAX_STRENGTH)
        set_lora(self.transformer, {**self.loras, name: strength})

    def unload_lora(self, name: str | None = None) -> None:
        """Remove an adapter, or all of them; without any the model is what it was before, bit for bit.

        Raises:
            ValueError: no adapter of the name, or adapters are merged.
        """
        remove_lora(self.transformer, name)

    def merge_lora(self) -> None:
        """Add the loaded adapters to the weights, in float32: drawing then costs what it does without.

        Memory holds the weights twice, until `unmerge_lora` puts back what they were.
        """
        merge_lora(self.transformer)

    def unmerge_lora(self) -> None:
        """Put the weights back as they were before `merge_lora`, bit for bit."""
        unmerge_lora(self.transformer)
