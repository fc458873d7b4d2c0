"""The command line: parse, call one of `commands`, print.

Every command prints progress on standard error and what it made on standard output; `--json` prints one JSON object
last. Errors of the user's making are one line and exit code 2; an interrupt is 130.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from fourstroke import commands
from fourstroke.choices import METHODS, OFFLOADS
from fourstroke.evaluate.evaluations import add_evaluations
from fourstroke.options import path_option, seed_option
from fourstroke.terminal import collect_rarely, outlived
from fourstroke.textfile import TextError, check_text
from fourstroke.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    collect_rarely()
    with outlived():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("torchao", "torch.utils._pytree"):  # what they say when imported is of no use to who draws
        logging.getLogger(library).setLevel(logging.ERROR)
    arguments = argparse.Namespace(debug=False)
    try:
        words = sys.argv[1:] if argv is None else argv
        _parse(_parser(words), words, arguments)
        _check_words(arguments)
        result = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.debug:
            raise
        print(f"fourstroke: {commands.one_line(error)}", file=sys.stderr)
        return 2
    if getattr(arguments, "json", False):
        print(json.dumps(result))  # in ASCII: every terminal shows it, and it stays JSON
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; see {self.prog} --help")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str], arguments: argparse.Namespace) -> None:
    _, rest = parser.parse_known_args(argv, arguments)
    if hasattr(arguments, "overrides"):  # argparse alone takes key=value only in one place among the options
        arguments.overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in arguments.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")


def _check_words(arguments: argparse.Namespace) -> None:
    """Refuse bytes that are not UTF-8 in what is words; paths may hold any."""
    for name, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            try:
                check_text(text if isinstance(text, str) else "")
            except TextError:
                shown = text[:40].encode(errors="backslashreplace").decode()
                raise ValueError(f"{name.replace('_', '-')} '{shown}' is not UTF-8; give it in UTF-8") from None


def _span(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    try:
        return int(least), int(most or least)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range; write MIN:MAX, such as 1:4") from None


def _name(text: str) -> str:
    """A folder or hub id."""
    path_option(text)
    return os.path.expanduser(text)


def _loading_options(command: argparse.ArgumentParser) -> None:
    """How much memory a model takes, and what takes the place of its parts."""
    command.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the weights (default: bfloat16 on a GPU or with the two options below, else float32)",
    )
    command.add_argument(
        "--quantize", choices=METHODS, help="keep most weights in fewer bits; w8a8 has int8 products on CPUs too"
    )
    command.add_argument(
        "--offload",
        choices=OFFLOADS,
        default="none",
        help="what is in memory only while it is used: nothing, the text encoder and the autoencoder (model), or the "
        "transformer's blocks too (layers)",
    )
    command.add_argument(
        "--compile",
        action="store_true",
        help="compile the transformer's blocks: each kind of picture waits for it once, later ones are faster",
    )
    command.add_argument(
        "--file-cache", type=float, metavar="GIB",
        help="of the transformer's file that stays in memory between steps, at most (default: all that is free; CPUs)",
    )  # fmt: skip
    for part in ("transformer", "text-encoder", "vae"):
        command.add_argument(
            f"--{part}", type=_name, metavar="FILE",
            help=f"weights in the place of the model's {part}: .safetensors as of ComfyUI, or .gguf",
        )  # fmt: skip


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(prog="fourstroke", description="From prompt to picture in four strokes.")
    parser.add_argument("--version", action="version", version=f"fourstroke {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = verbs.add_parser("generate", help="draw pictures from prompts")
    generate.add_argument("prompt", nargs="+", help="what to draw; several prompts are drawn one after the other")
    generate.set_defaults(run=commands.generate, image=[])
    edit = verbs.add_parser("edit", help="change pictures by an instruction")
    edit.add_argument("prompt", nargs=1, help="what to change")
    edit.add_argument("--image", type=_name, action="append", required=True, help="a picture file; may be repeated")
    edit.set_defaults(run=commands.generate)
    for command in (generate, edit):
        command.add_argument("--model", type=_name, help="folder or hub id (default: the best bundled model)")
        command.add_argument("--out", type=path_option, default=Path("outputs"), help="folder for the pictures")
        command.add_argument("--width", type=int, help="pixels, a multiple of 32")
        command.add_argument("--height", type=int, help="pixels, a multiple of 32")
        command.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
        command.add_argument(
            "--step-cache", type=float, default=0.0, metavar="THRESHOLD",
            help="for models of many steps: skip most of a step that changes little, by .08 or so (default: 0, never)",
        )  # fmt: skip
        command.add_argument("--guidance", type=float, help="guidance scale; 1 switches it off")
        command.add_argument("--negative", help="what guidance leads away from")
        command.add_argument("--num-images", type=int, default=1, help="pictures for each prompt")
        command.add_argument("--seed", type=seed_option, help="seed of the first picture (default: drawn, and printed)")
        command.add_argument("--transparent", action="store_true", help="RGBA with a transparent background")
        command.add_argument("--sheet", type=path_option, help="also write a sheet of all pictures with their prompts")
        command.add_argument(
            "--lora", action="append", default=[], metavar="FILE[:STRENGTH]",
            help="an adapter: a file, a folder, or a hub id; may be repeated",
        )  # fmt: skip
        command.add_argument("--device", help="cpu, cuda, cuda:1 … (default: the GPU if there is one)")
        _loading_options(command)
        command.add_argument("--json", action="store_true", help="print one JSON object")

    generate.add_argument(
        "--enhance",
        action=argparse.BooleanOptionalAction,
        help="rewrite prompts with the model's enhancer first (default: if it has one)",
    )

    enhance = verbs.add_parser("enhance", help="rewrite prompts and print them")
    enhance.add_argument("prompt", nargs="+", help="what to rewrite")
    enhance.add_argument(
        "--model", type=_name, help="folder or hub id with a prompt_enhancer (default: the best bundled model)"
    )
    enhance.add_argument("--seed", type=seed_option, default=0, help="the same prompt and seed give the same rewrite")
    enhance.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
    enhance.set_defaults(run=commands.enhance)

    data = verbs.add_parser("data", help="make training data")
    kinds = data.add_subparsers(required=True, metavar="WHAT", dest="what")
    degrade = kinds.add_parser("degrade", help="captions to triplets (short prompt, reasoning, caption)")
    degrade.add_argument(
        "captions", type=path_option, help="JSONL of rows with a caption, and what else the rules want"
    )
    degrade.add_argument(
        "--rules",
        metavar="KIND",
        help="who takes them apart (default: chat with an --endpoint, else world)",
    )
    degrade.add_argument("--out", type=path_option, help="triplets, appended to (default: <captions>.triplets.jsonl)")
    degrade.add_argument("--seed", type=seed_option, default=0, help="of the sampled strategies")
    degrade.add_argument("--workers", type=int, default=8, help="captions asked about at a time")
    degrade.set_defaults(run=commands.degrade)
    prepare = kinds.add_parser("prepare", help="look at a recipe's pictures, and keep their latents and features")
    prepare.add_argument("--recipe", type=path_option, required=True, help="any recipe with data and cache")
    prepare.add_argument("--split", choices=("train", "heldout"), nargs=1, help="of the data (default: both)")
    prepare.add_argument("--ray", metavar="ADDRESS", help="encode on a Ray cluster: host:port, auto, or local")
    prepare.add_argument("--actors", type=int, default=1, help="with --ray, encoders at a time")
    prepare.add_argument("--json", action="store_true", help="print one JSON object")
    prepare.add_argument("overrides", nargs="*", metavar="key=value", help="change a number of the recipe")
    prepare.set_defaults(run=commands.prepare)
    for command in (enhance, degrade):
        command.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server, http://host:port/v1")
        command.add_argument("--endpoint-model", metavar="NAME", help="the model it serves")
        command.add_argument("--json", action="store_true", help="print one JSON object")

    train = verbs.add_parser("train", help="train a stage by a recipe")
    train.add_argument("stage", choices=commands.STAGES)
    train.add_argument("--recipe", type=path_option, required=True, help="recipes/<family>/<stage>.yaml")
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue the run that the recipe's folder holds; refused where there is none",
    )
    train.add_argument("--json", action="store_true", help="print one JSON object")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="change a number of the recipe")
    train.set_defaults(run=commands.train)

    speedrun = verbs.add_parser("speedrun", help="train and measure a family's whole chain from nothing")
    speedrun.add_argument("family", help="micro (two CPU cores) or mini (one GPU)")
    speedrun.add_argument(
        "--recipes", type=path_option, default=Path("recipes"), help="folder of the families' recipes"
    )
    speedrun.add_argument("--runs", type=path_option, default=Path("runs"), help="folder for the runs")
    speedrun.add_argument("--n", type=int, default=200, help="prompts and scenes to measure on")
    speedrun.add_argument("--hours", type=float, help="scale the stages' limits to fit (default: those of the recipes)")
    speedrun.add_argument(
        "--processes",
        type=int,
        default=1,
        help="share the long stages among so many",
    )
    speedrun.add_argument("--json", action="store_true", help="print one JSON object")
    speedrun.set_defaults(run=commands.speedrun)

    evaluate = verbs.add_parser("eval", help="measure a model")
    subjects = evaluate.add_subparsers(required=True, metavar="WHAT", dest="what")
    if "eval" in argv:  # what there is to measure is looked up only then
        add_evaluations(subjects)
    for subject in subjects.choices.values():
        subject.add_argument("--model", type=_name, help="folder or hub id (default: the best bundled model)")
        subject.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
        subject.add_argument("--json", action="store_true", help="print one JSON object")
        subject.set_defaults(run=commands.evaluate)

    server = verbs.add_parser("serve", help="serve OpenAI's image API, and the studio as a web page")
    server.add_argument("--model", type=_name, help="folder or hub id (default: the best bundled model)")
    server.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
    _loading_options(server)
    server.add_argument(
        "--lora", action="append", default=[], metavar="NAME=FILE[:STRENGTH]",
        help="an adapter that requests may use; the strength is that of requests that name none",
    )  # fmt: skip
    server.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    server.add_argument("--port", type=int, help="port to listen on (default: 8000)")
    server.add_argument("--endpoint", metavar="URL", help="prompt enhancer elsewhere: an OpenAI-compatible server")
    server.add_argument("--endpoint-model", metavar="NAME", help="the model it serves")
    server.add_argument("--api-key", action="append", default=[], help="may be repeated; also FOURSTROKE_API_KEYS")
    server.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="origin whose pages may call")
    server.add_argument("--queue", type=int, help="pictures that may wait before 429 (default: 64)")
    server.add_argument("--rows", type=int, help="pictures that share a step (default: 32)")
    server.add_argument(
        "--kv-bytes", type=int, help="for keys and values of pictures under way (default: half of what a GPU has free)"
    )
    server.add_argument(
        "--step-cache", type=float, metavar="THRESHOLD", help="of requests that name none (default: 0); see generate"
    )
    server.add_argument("--request-seconds", type=float, help="longest a request may take (default: 600)")
    server.add_argument(
        "--ray", metavar="ADDRESS", help="draw with replicas of a Ray cluster: host:port, auto, or local"
    )
    server.add_argument("--replicas", type=_span, metavar="MIN:MAX", help="with --ray (default: 1:4)")
    server.add_argument("--replica-load", type=float, help="pictures in each that call for another (default: 8)")
    server.add_argument("--replica-cpus", type=float, help="cores set aside for each (default: 1)")
    server.set_defaults(run=commands.serve)

    needs = verbs.add_parser("estimate", help="say what a run needs, before it is started")
    needs.add_argument("recipe", type=path_option, help="recipes/<family>/<stage>.yaml, or the folder of a model")
    needs.add_argument("--device", help="of a model that draws: cpu, cuda … (default: the GPU if there is one)")
    needs.add_argument("overrides", nargs="*", metavar="key=value", help="change a number of the recipe")
    needs.add_argument("--stage", choices=["dit", "distill", "enhance-rl", "enhance-sft", "vae"], help="if need be")
    needs.add_argument("--ranks", type=int, default=1, help="processes that torchrun starts")
    needs.add_argument("--text-tokens", type=int, default=400, help="of a prompt")
    needs.add_argument("--tflops", type=float, default=400, help="10^12 operations a second that are really reached")
    needs.add_argument("--json", action="store_true", help="print one JSON object")
    needs.set_defaults(run=commands.estimate)

    convert = verbs.add_parser("convert", help="single files from a model's parts, and a model from single files")
    convert.add_argument(
        "paths", nargs="+", type=_name, metavar="PATH",
        help="a model and a new FILE.safetensors (ComfyUI's names), or files (.safetensors, .gguf) and a new folder",
    )  # fmt: skip
    convert.add_argument("--part", choices=("transformer", "text_encoder", "vae"), default="transformer",
                         help="of a model (default: transformer)")  # fmt: skip
    convert.add_argument(
        "--fp8", action="store_true", help="matrices in fp8 with a scale each, as ComfyUI's fp8_scaled"
    )
    convert.add_argument("--base", type=_name, metavar="MODEL", help="where files' configs and the other parts are")
    convert.add_argument("--json", action="store_true", help="print one JSON object")
    convert.set_defaults(run=commands.convert)

    doctor = verbs.add_parser("doctor", help="say what this installation can do")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=commands.doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
