"""Writing pictures with a note inside, so that a PNG tells how it was drawn."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, PngImagePlugin

from fourstroke.files import save_image, user_path

if TYPE_CHECKING:
    from fourstroke.pipeline import Output

NOTE_KEY = "fourstroke"


def write_pictures(
    output: Output, folder: Path, model: str, settings: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Write every picture of `output` as PNG into `folder`, each whole or not at all; yields its path when it is there.

    Names hold the user's first words and the seed. The note inside holds the prompt that was drawn, the request that
    it was rewritten from, and the `settings`.

    Raises:
        WriteError: if one cannot be written, for example on a full disk; those before it stay.
    """
    each = len(output.images) // max(1, len(output.enhanced))
    asked = [rewrite.request for rewrite in output.enhanced for _ in range(each)] or output.prompts
    for image, prompt, request, seed in zip(output.images, output.prompts, asked, output.seeds, strict=True):
        told: dict[str, Any] = {"prompt": prompt, "seed": seed, "model": model}
        told |= {"width": image.width, "height": image.height, **(settings or {})}
        if request != prompt:
            told["request"] = request
        path = free_path(user_path(folder) / f"{slug(request)}-{seed}.png")
        save_picture(image, path, told)
        yield path


def save_picture(image: Image.Image, path: Path, told: Mapping[str, Any]) -> None:
    """Write a PNG with a note of what is `told` inside, whole or not at all; raises WriteError."""
    note = PngImagePlugin.PngInfo()
    note.add_itxt(NOTE_KEY, json.dumps(told, ensure_ascii=False))
    save_image(image, path, pnginfo=note)


def slug(prompt: str, length: int = 40) -> str:
    """A prompt as a file name: word characters that file names can have here, and hyphens, at most `length`."""
    names = sys.getfilesystemencoding()
    words = prompt.strip().lower().encode(names, "ignore").decode(names)
    words = re.sub(r"[^\w]+", "-", words).strip("-")
    return words[:length].rstrip("-") or "picture"


def free_path(path: Path) -> Path:
    """`path`, or the first `name-2.png`, `name-3.png` … that does not exist yet: nothing is overwritten."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_stem(f"{path.stem}-{number}"), number + 1
    return candidate
