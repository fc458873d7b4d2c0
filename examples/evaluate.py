"""Measure a model on held-out prompts and its autoencoder on a folder of pictures; the numbers as a dictionary.

python examples/evaluate.py photos/
"""

import contextlib
import io
import json
import sys

from fourstroke.cli import main


def measure(*words: str) -> dict:
    """What `fourstroke eval` prints as JSON."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["eval", *words, "--json"]) == 0
    return json.loads(said.getvalue().splitlines()[-1])


print(measure("composition", "--n", "8"))
for folder in sys.argv[1:]:
    print(measure("reconstruction", "--images", folder))
