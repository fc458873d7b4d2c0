"""Edits under a mask: what is outside stays to the last bit, what is inside is drawn."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from fourstroke.serve import GenerationRequest, ModelRunner
from fourstroke.serve.uploads import fit_mask
from fourstroke.sizes import fit

from .test_engine import draw


def scene() -> Image.Image:
    image = Image.new("RGB", (64, 32), "teal")
    ImageDraw.Draw(image).ellipse((4, 4, 28, 28), fill="orange")
    return image


def mask(box=(32, 0, 64, 32)) -> Image.Image:
    image = Image.new("L", (64, 32), 0)
    image.paste(255, box)
    return image


def request(**more) -> GenerationRequest:
    return GenerationRequest(prompt="a cat", width=64, height=32, seed=1, inputs=(scene(),), **more)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def transparent_where(free: Image.Image) -> Image.Image:
    """A mask as clients send it."""
    image = Image.new("RGBA", free.size, "white")
    image.putalpha(free.point(lambda value: 255 - value))
    return image


def test_only_the_masked_part_is_drawn_and_company_changes_nothing(engine_of_tiny):
    alone = draw(engine_of_tiny, [request(mask=mask())])[0][-1].image
    together = draw(engine_of_tiny, [request(mask=mask()), request(), request(mask=mask((0, 0, 32, 32)))])
    images = [np.asarray(events[-1].image).astype(int) for events in together]
    original = np.asarray(scene()).astype(int)
    assert np.array_equal(images[0][:, :32], original[:, :32])
    assert np.array_equal(images[2][:, 32:], original[:, 32:])
    assert np.abs(images[0][:, 36:] - original[:, 36:]).mean() > 5
    assert np.abs(images[0] - np.asarray(alone)).max() <= 1
    assert not np.array_equal(images[1][:, :32], original[:, :32])


def test_what_is_drawn_under_a_mask_depends_on_what_stays(engine_of_tiny):
    other = Image.new("RGB", (64, 32), "purple")
    requests = [
        request(mask=mask()),
        GenerationRequest(prompt="a cat", width=64, height=32, seed=1, inputs=(other,), mask=mask()),
    ]
    images = [np.asarray(events[-1].image).astype(int) for events in draw(engine_of_tiny, requests)]
    assert np.abs(images[0][:, 40:] - images[1][:, 40:]).max() > 2


def test_previews_under_a_mask_show_the_picture_around_it(engine_of_tiny):
    events = draw(engine_of_tiny, [request(mask=mask(), num_inference_steps=6)], previews=2)[0]
    for event in events:
        assert np.array_equal(np.asarray(event.image)[:, :32], np.asarray(scene())[:, :32])


def test_masks_come_as_openai_has_them(live):
    files = {"image": ("a.png", png(scene())), "mask": ("m.png", png(transparent_where(mask())))}
    with httpx.Client(base_url=live.url, timeout=20) as web:
        answer = web.post("/v1/images/edits", data={"prompt": "a cat", "seed": "1"}, files=files)
        assert answer.status_code == 200, answer.text
        image = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert np.array_equal(np.asarray(image)[:, :32], np.asarray(scene())[:, :32])
    assert "mask" in image.text["fourstroke"]


def _palette(image: Image.Image) -> Image.Image:
    """Colour 1 of a palette is transparent."""
    found = image.getchannel("A").point(lambda value: value < 128).convert("P")
    found.putpalette([0, 0, 0, 255, 255, 255])
    found.info["transparency"] = 1
    return found


@pytest.mark.parametrize(
    "kind", [lambda m: m, lambda m: m.convert("LA"), _palette, lambda m: m.convert("RGBa").convert("RGBA")]
)
def test_masks_of_every_kind_of_transparency_are_one(live, kind):
    sent = kind(transparent_where(mask()))
    files = {"image": ("a.png", png(scene())), "mask": ("m.png", png(sent))}
    answer = httpx.post(f"{live.url}/v1/images/edits", data={"prompt": "a cat", "seed": "1"}, files=files, timeout=20)
    image = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
    assert np.array_equal(np.asarray(image)[:, :32], np.asarray(scene())[:, :32])
    assert not np.array_equal(np.asarray(image)[:, 40:], np.asarray(scene())[:, 40:])


@pytest.mark.parametrize(
    ("sent", "fields", "reason"),
    [
        (Image.new("RGBA", (32, 32)), {}, "one size"),
        (Image.new("RGB", (64, 32)), {}, "no alpha channel"),
        (Image.new("RGBA", (64, 32), "white"), {}, "nothing in it is transparent"),
        (transparent_where(mask()), {"size": "32x32"}, "picture's own, 64x32"),
    ],
)
def test_masks_that_say_nothing_are_refused(live, sent, fields, reason):
    files = {"image": ("a.png", png(scene())), "mask": ("m.png", png(sent))}
    answer = httpx.post(f"{live.url}/v1/images/edits", data={"prompt": "x", **fields}, files=files, timeout=20)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]["message"]


def test_the_mask_of_a_resized_picture_follows_it(tiny):
    large = Image.new("RGBA", (640, 320), "white")
    large.putalpha(mask((32, 0, 64, 32)).resize((640, 320)).point(lambda value: 255 - value))
    assert np.array_equal(
        np.asarray(fit_mask(large, (640, 320), fit(scene().resize((640, 320)), tiny.info).size)), np.asarray(mask())
    )
    hold = ModelRunner(tiny)._inpaint(request(mask=mask((40, 0, 41, 1))), ModelRunner(tiny).begin(request()).latent)
    assert hold.free.flatten().nonzero().flatten().tolist() == [2]  # the one latent that the mask touches
