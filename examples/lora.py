"""Draw with a LoRA at three strengths: a file of diffusers, PEFT, ComfyUI or kohya's scripts, or a hub id.

python examples/lora.py style.safetensors "a cat"
"""

import sys
from pathlib import Path

import fourstroke

file, prompt = (*sys.argv[1:], "a cat")[:2]
pipe = fourstroke.Pipeline.from_pretrained()
name = pipe.load_lora(file)

Path("outputs").mkdir(exist_ok=True)
for strength in (0, 0.5, 1):
    pipe.set_lora(name, strength)
    pipe(prompt, seed=7).images[0].save(f"outputs/{name}-{strength}.png")
    print(f"outputs/{name}-{strength}.png")
