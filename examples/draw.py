"""Draw two prompts, two seeds each, into outputs/.

python examples/draw.py "a cat" "a rocket above a red circle"
"""

import sys
from pathlib import Path

import fourstroke

pipe = fourstroke.Pipeline.from_pretrained()  # the best bundled model; or a folder, or a hub id
prompts = sys.argv[1:] or ["a cat on a mint background", 'a yellow sign that says "open" above a cup of coffee']
out = pipe(prompts, num_images=2, seed=7)

Path("outputs").mkdir(exist_ok=True)
for image, prompt, seed in zip(out.images, out.prompts, out.seeds):
    path = f"outputs/{prompt.replace(' ', '-')[:40]}-{seed}.png"
    image.save(path)
    print(path)
print({stage: round(seconds, 2) for stage, seconds in out.timings.items()})
