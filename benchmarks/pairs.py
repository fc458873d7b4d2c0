"""Two ways to the same picture, taking turns in one run: how many times as fast is the second?

    python benchmarks/pairs.py                       # all of them; compiling takes a minute
    python benchmarks/pairs.py guidance --repeats 15

guidance  both evaluations of a guided step each for itself, and in one pass over the weights
compile   blocks as they are, and compiled
padding   attention of rows whose prompts have 20, 80, 140 and 200 tokens, at the published width: all rows together
          with the padding masked, and row by row without it (this is no choice of the product's)

The first two draw whole pictures of a bundled model. One thread; seconds are its own CPU time.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

from fourstroke import Pipeline

Pair = tuple[Callable[[], object], Callable[[], object]]
TOKENS = (20, 80, 140, 200)
"""Of the prompts of four rows."""


def guidance(arguments: argparse.Namespace) -> dict[str, Pair]:
    """Eight guided steps."""
    pipe = Pipeline.from_pretrained(arguments.model, device="cpu")
    condition = importlib.import_module("fourstroke.dit.condition")  # the package has a function of this name
    allowed = condition.TOGETHER

    def draw(most: int) -> object:
        condition.TOGETHER = most  # type: ignore[attr-defined]
        return pipe("a frog above a red circle", seed=0, num_inference_steps=8, guidance_scale=3)

    return {"one pass": (lambda: draw(0), lambda: draw(allowed))}


def compiled(arguments: argparse.Namespace) -> dict[str, Pair]:
    """A picture in the model's own steps."""
    pipes = [Pipeline.from_pretrained(arguments.model, device="cpu", compile=compile) for compile in (False, True)]
    first, second = (lambda pipe=pipe: pipe("a frog above a red circle", seed=0) for pipe in pipes)
    return {"compiled": (first, second)}


def padding(arguments: argparse.Namespace) -> dict[str, Pair]:
    """One layer's attention of the targets over the prompts' cached keys and values, and their own."""
    return {f"{dtype}, {side}x{side}": _attention(dtype, side) for dtype in DTYPES for side in (16, 32)}


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
PAIRS = {"guidance": guidance, "compile": compiled, "padding": padding}


def _attention(dtype: str, side: int, heads: int = 32, channels: int = 128) -> Pair:
    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, heads, channels).to(DTYPES[dtype])

    def attend(query: torch.Tensor, *both: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (query, *both)), attn_mask=mask)

    rows, target, longest = len(TOKENS), side * side, max(TOKENS)
    query, past, own = random(rows, target), [random(2, n) for n in TOKENS], random(2, rows, target)
    padded = torch.nn.utils.rnn.pad_sequence([row.transpose(0, 1) for row in past], batch_first=True).unbind(2)
    places = torch.arange(longest + target)
    mask = ((places < torch.tensor(TOKENS)[:, None]) | (places >= longest))[:, None, None]

    def masked() -> object:
        return attend(query, *(torch.cat(pair, dim=1) for pair in zip(padded, own, strict=True)), mask=mask)

    def by_rows() -> object:
        each = zip(query, past, own.transpose(0, 1), strict=True)
        return torch.cat([attend(q[None], *torch.cat((old, new), dim=1)[:, None]) for q, old, new in each])

    assert torch.allclose(masked(), by_rows(), atol=0.05)  # type: ignore[arg-type]
    return masked, by_rows


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", nargs="*", metavar="PAIR", help=f"of {', '.join(PAIRS)} (default: all)")
    parser.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    if unknown := set(arguments.pairs) - set(PAIRS):
        parser.error(f"{', '.join(unknown)}: choose of {', '.join(PAIRS)}")
    torch.set_num_threads(1)
    with torch.inference_mode():
        for name in arguments.pairs or PAIRS:
            for what, ways in PAIRS[name](arguments).items():
                report(f"{name}, {what}", ways, arguments.repeats)


def report(what: str, ways: Pair, repeats: int) -> None:
    """Print the medians of both ways, and of the turns' ratios."""
    seconds: list[list[float]] = [[], []]
    for turn in range(repeats + 1):
        for way in (0, 1) if turn % 2 else (1, 0):
            start = time.thread_time()
            ways[way]()
            if turn:  # the first warms up
                seconds[way].append(time.thread_time() - start)
    ratios = [first / second for first, second in zip(*seconds, strict=True)]
    first, second = (1000 * statistics.median(found) for found in seconds)
    print(
        f"{what}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"{first:.1f} and {second:.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
