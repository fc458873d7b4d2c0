"""Edit a picture by words.

python examples/edit.py "replace the cat with a dog" picture.png
"""

import sys
from pathlib import Path

from PIL import Image

import fourstroke

instruction, *files = sys.argv[1:] or ["replace the cat with a dog"]
pipe = fourstroke.Pipeline.from_pretrained()
images = [Image.open(file) for file in files] or pipe("a cat", seed=7).images
out = pipe(instruction, images=images, seed=7)  # one input image or several; the last one gives the shape

Path("outputs").mkdir(exist_ok=True)
out.images[0].save("outputs/edited.png")
print(f"outputs/edited.png, {out.images[0].width} x {out.images[0].height}")
