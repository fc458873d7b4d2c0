"""The words around a prompt: how Qwen-Image-2.1 presents a request to its text encoder.

Three of them: text to image; text and images to image, where every input image is announced as `<image1>`,
`<image2>`, … and followed by its vision tokens; and the sentence around a description whose background shall be
transparent.
The 2.0 report is silent about the wording; this is that of the open 2.1 checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

SYSTEM_PROMPT = "Comprehend and analyze the provided prompt."
SYSTEM_TURN = f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n"
IMAGE_TOKEN = "<|image_pad|>"


def chat(prompt: str, slots: Sequence[int] = ()) -> str:
    """The conversation to encode: system turn, user turn with images first, and an assistant turn left open.

    `slots` holds the number of vision tokens of each input image; without images this is the text-to-image template.
    An empty prompt becomes one space, since the encoder needs something to read (the unconditional branch).
    """
    images = " ".join(
        f"<image{number}><|vision_start|>{IMAGE_TOKEN * count}<|vision_end|>" for number, count in enumerate(slots, 1)
    )
    return f"{SYSTEM_TURN}<|im_start|>user\n{images}{prompt or ' '}<|im_end|>\n<|im_start|>assistant\n"


def transparent(description: str) -> str:
    """Ask for a picture with an alpha channel: the sentence that the transparent training data carries."""
    description = description.strip().removesuffix(".")
    return (
        f"This is an RGBA image with transparency. {description}. "
        "The image has alpha channel and the background is transparent."
    )


CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\n' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- set seen = namespace(images=0) -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
{%- set seen.images = seen.images + 1 -%}
{{- (' ' if seen.images > 1 else '') + '<image' + seen.images|string + '>' -}}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}
{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""
"""The same turns as a Jinja template, for those who read the processor folder with transformers."""
