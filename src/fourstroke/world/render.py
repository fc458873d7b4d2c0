"""Draws a scene: background, texture, shadows, objects, sign, light, in this order.

While a picture is made its planes lie one behind the other, (3 or 4, height, width) in 0..255, because fields of
(height, width) then multiply whole planes at once. Objects are laid over each other with premultiplied alpha; what
comes out has straight alpha. Sprites, shapes, shadows, textures and lights are made once for each size and kept, so a
picture costs a handful of numpy operations.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageFilter

from fourstroke.world.graph import Background, Scene
from fourstroke.world.lettering import stamp_of
from fourstroke.world.palette import BACKGROUND_COLOURS
from fourstroke.world.stamps import Array, Stamp, object_stamp

SHADOW_STRENGTH = 0.34


def render_scene(scene: Scene) -> Array:
    """The picture of a scene, (height, width, 4) uint8 with straight alpha; stickers are 0 where nothing is."""
    width, height = scene.width, scene.height
    side = min(width, height)
    stamps = []
    for entry in scene.objects:
        size = _quantised(entry.size, side)
        stamp = object_stamp(entry.name, entry.colour, size, entry.style)
        stamps.append((stamp, entry.x, entry.y, max(2, round(size * 0.06))))
    if scene.sign is not None:
        stamps.append((stamp_of(scene.sign, width, height), scene.sign.x, scene.sign.y, max(2, round(side * 0.02))))
    if scene.background.kind == "transparent":
        planes = np.zeros((4, height, width), np.float32)
        for stamp, x, y, _ in stamps:
            _lay(planes, stamp, x, y)
        if scene.background.edge == "soft":
            planes *= _soft_edge(planes[3])
        np.divide(planes[:3], planes[3] / 255.0, out=planes[:3], where=planes[3] > 0)
        return _finished(planes)
    planes = paint_background(scene.background, width, height)
    overlapping = any(relation.predicate == "in front of" for relation in scene.relations)
    for layer in [[stamp] for stamp in stamps] if overlapping else [stamps]:
        for stamp, x, y, reach in layer:
            _cast_shadow(planes, stamp, x, y, reach, scene.background.light)
        for stamp, x, y, _ in layer:
            _lay(planes, stamp, x, y)
    if scene.background.light != "even":
        planes *= light_field(scene.background.light, width, height)
    return _finished(planes)


def paint_background(background: Background, width: int, height: int) -> Array:
    """The background without its light, (3, height, width) float32 in 0..255."""
    assert background.colour is not None, "stickers have no background to paint"
    first = np.asarray(BACKGROUND_COLOURS[background.colour], np.float32)[:, None]
    column = first.repeat(height, axis=1)
    if background.second is not None:
        second = np.asarray(BACKGROUND_COLOURS[background.second], np.float32)[:, None]
        if background.horizon is None:
            column = first + (second - first) * np.linspace(0.0, 1.0, height, dtype=np.float32)
        else:
            column[:, round(background.horizon * height) :] = second
    if background.texture == "plain":
        return column[:, :, None].repeat(width, axis=2)
    return column[:, :, None] * texture_field(background.texture, width, height)


@functools.lru_cache(maxsize=64)
def texture_field(texture: str, width: int, height: int) -> Array:
    """What a texture multiplies the background by, (height, width), close to 1."""
    side = min(width, height)
    x, y = np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5
    if texture == "paper":
        rng = np.random.Generator(np.random.PCG64(7))
        coarse = rng.normal(size=(height // 2 + 1, width // 2 + 1)).repeat(2, 0).repeat(2, 1)[:height, :width]
        field = 1.0 + np.clip(0.02 * rng.normal(size=(height, width)) + 0.025 * coarse, -0.1, 0.06)
    elif texture == "stripes":
        field = 1.0 - 0.085 * _soft_step(np.sin(2 * np.pi * x * 8 / side) + 0 * y, side)
    elif texture == "dots":
        pitch = side / 8
        from_dot = np.hypot(x % pitch - pitch / 2, y % pitch - pitch / 2)
        field = 1.0 - 0.1 * np.clip(0.26 * pitch + 0.5 - from_dot, 0.0, 1.0)
    elif texture == "checks":
        wave = np.sin(np.pi * x * 8 / side) * np.sin(np.pi * y * 8 / side)
        field = 1.0 - 0.075 * _soft_step(wave, side)
    else:
        raise ValueError(f"unknown texture {texture!r}")
    return field.astype(np.float32)


@functools.lru_cache(maxsize=64)
def light_field(light: str, width: int, height: int) -> Array:
    """What a light multiplies the picture by, (1 or 3, height, width)."""
    x = ((np.arange(width) + 0.5) / width)[None, :]
    y = ((np.arange(height) + 0.5) / height)[:, None]
    radius = np.hypot(x - 0.5, y - 0.5) / 0.7071
    if light in ("left", "right", "top"):
        away = {"left": x, "right": 1 - x, "top": y}[light]
        field = 1.05 - 0.38 * away + 0 * radius
    elif light == "vignette":
        field = 1.03 - 0.6 * radius**2
    elif light == "warm":
        field = (1.06 - 0.28 * radius**1.5) * np.asarray([1.05, 0.96, 0.82])[:, None, None]
    elif light == "dusk":
        field = (0.84 - 0.12 * y + 0 * x) * np.asarray([0.86, 0.9, 1.14])[:, None, None]
    else:
        raise ValueError(f"unknown light {light!r}")
    return field.astype(np.float32).reshape(-1, height, width)


@functools.lru_cache(maxsize=768)
def _shadow_kept(stamp: Stamp, reach: int) -> Array:
    """What the shadow of a stamp leaves of the light, with ``2 * reach`` pixels around it, (h, w) in 0..1."""
    alpha = np.pad(stamp.planes[3], 2 * reach).astype(np.uint8)
    blurred = Image.fromarray(alpha).filter(ImageFilter.GaussianBlur(reach * 0.8))
    return 1.0 - np.asarray(blurred, np.float32) * np.float32(SHADOW_STRENGTH / 255.0)


def _cast_shadow(planes: Array, stamp: Stamp, x: float, y: float, reach: int, light: str) -> None:
    kept = _shadow_kept(stamp, reach)
    aside = {"left": reach, "right": -reach}.get(light, 0)
    target, source = _windows(planes.shape, kept.shape, x + aside / planes.shape[2], y + reach / planes.shape[1])
    planes[(slice(None), *target)] *= kept[source]


def _lay(planes: Array, stamp: Stamp, x: float, y: float) -> None:
    target, source = _windows(planes.shape, stamp.kept.shape, x, y)
    below = planes[(slice(None), *target)]
    below *= stamp.kept[source]
    below += stamp.planes[(slice(len(planes)), *source)]


def _soft_edge(alpha: Array) -> Array:
    """What soft edges leave of planes with this alpha (0..255): they fade inwards, over 3 % of the shorter side."""
    blurred = Image.fromarray(alpha.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.014 * min(alpha.shape)))
    return np.clip(np.asarray(blurred, np.float32) / 127.5 - 0.7, 0.0, 1.0)


Window = tuple[slice, slice]


def _windows(canvas: tuple[int, ...], patch: tuple[int, ...], x: float, y: float) -> tuple[Window, Window]:
    """Rows and columns of the canvas under a patch centred at (x, y), and of the patch over the canvas."""
    (height, width), (h, w) = canvas[-2:], patch[-2:]
    left, top = round(x * width - w / 2), round(y * height - h / 2)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, width), min(top + h, height)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _finished(planes: Array) -> Array:
    """Planes in 0..255, (3 or 4, h, w), as pixels, (h, w, 4) uint8; three planes are opaque."""
    planes += 0.5
    np.clip(planes, 0.0, 255.0, out=planes)
    picture = np.full((*planes.shape[1:], 4), 255, np.uint8)
    for channel, plane in enumerate(planes.astype(np.uint8)):
        picture[..., channel] = plane
    return picture


def _soft_step(wave: Array, side: int) -> Array:
    return np.clip(0.5 + wave * side / 60, 0.0, 1.0)


def _quantised(size: float, side: int) -> int:
    """Pixels of a size, in steps that keep the number of kept stamps small at any resolution."""
    step = max(1, round(side / 96))
    return max(2, step * round(size * side / step))
