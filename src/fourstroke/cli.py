"""The command line: parse, call, print.

Every command prints progress on standard error and what it made on standard output; `--json` prints one JSON object
last. Errors of the user's making are one line and exit code 2; an interrupt is 130.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fourstroke.version import __version__

STAGES = ("features", "vae", "text", "dit", "distill", "enhance-sft", "enhance-rl")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if hasattr(arguments, "overrides"):  # argparse alone takes key=value only in one place among the options
        arguments.overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in arguments.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        result = arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.debug:
            raise
        print(f"fourstroke: {_one_line(error)}", file=sys.stderr)
        return 2
    if getattr(arguments, "json", False):
        print(json.dumps(result, ensure_ascii=False))
    return 0


def _generate(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.data.sheet import contact_sheet
    from fourstroke.pictures import write_pictures
    from fourstroke.pipeline import Clock, Pipeline

    _quiet()
    clock = Clock()
    pipe = Pipeline.from_pretrained(arguments.model, device=arguments.device)
    clock.lap("load")
    _say_warnings()
    wanted = getattr(arguments, "enhance", False)
    enhance = pipe.enhancer is not None if wanted is None else wanted
    if enhance and pipe.enhancer is None:
        raise ValueError(f"{pipe.info.name} has no prompt_enhancer folder; leave --enhance out")
    images = [_open(path) for path in getattr(arguments, "image", [])]
    outputs = [
        pipe(
            prompt,
            images=images or None,
            width=arguments.width,
            height=arguments.height,
            num_inference_steps=arguments.steps,
            guidance_scale=arguments.guidance,
            negative_prompt=arguments.negative,
            num_images=arguments.num_images,
            seed=arguments.seed,
            enhance=enhance,
            transparent=arguments.transparent,
            on_step=_progress(f"{index + 1}/{len(arguments.prompt)} ") if sys.stderr.isatty() else None,
        )
        for index, prompt in enumerate(arguments.prompt)
    ]
    paths = [path for output in outputs for path in write_pictures(output, arguments.out, pipe.info.name)]
    pictures = [image for output in outputs for image in output.images]
    if arguments.sheet:
        prompts = [prompt for output in outputs for prompt in output.prompts]
        columns = arguments.num_images if arguments.num_images > 1 else min(4, len(pictures))
        upscale = max(1, 1024 // (columns * pictures[0].width))
        arguments.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(pictures, prompts, columns=columns, upscale=upscale).save(arguments.sheet)
    timings = {"load": clock.laps["load"]}
    for output in outputs:
        for stage, seconds in output.timings.items():
            timings[stage] = timings.get(stage, 0.0) + seconds
    spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in timings.items())
    if not arguments.json:
        for rewrite in (e for output in outputs for e in output.enhanced if e.warning is None):
            print(f"{rewrite.request} -> {rewrite.prompt}")
        for path in paths:
            print(path)
        if arguments.sheet:
            print(f"contact sheet: {arguments.sheet}")
        print(f"{len(pictures)} pictures with {pipe.info.name}: {spent}")
    seeds = [seed for output in outputs for seed in output.seeds]
    return {"model": pipe.info.name, "pictures": [str(p) for p in paths], "seeds": seeds, "timings": timings}


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.train.recipe import load_recipe

    _quiet()
    overrides = list(arguments.overrides)
    if arguments.stage == "vae":
        from fourstroke.train.vae import VaeRecipe, train_vae

        folder = train_vae(load_recipe(VaeRecipe, arguments.recipe, overrides), arguments.resume)
    elif arguments.stage == "features":
        from fourstroke.train.features import FeaturesRecipe, train_features

        folder = train_features(load_recipe(FeaturesRecipe, arguments.recipe, overrides), arguments.resume)
    elif arguments.stage == "text":
        from fourstroke.train.text import TextRecipe, train_text

        folder = train_text(load_recipe(TextRecipe, arguments.recipe, overrides), arguments.resume)
    elif arguments.stage == "dit":
        from fourstroke.train.dit import DitRecipe, train_dit

        folder = train_dit(load_recipe(DitRecipe, arguments.recipe, overrides), arguments.resume)
    elif arguments.stage == "enhance-sft":
        from fourstroke.train.enhance_sft import EnhanceSftRecipe, train_enhance_sft

        folder = train_enhance_sft(load_recipe(EnhanceSftRecipe, arguments.recipe, overrides), arguments.resume)
    elif arguments.stage == "enhance-rl":
        from fourstroke.train.enhance_rl import EnhanceRlRecipe, train_enhance_rl

        folder = train_enhance_rl(load_recipe(EnhanceRlRecipe, arguments.recipe, overrides), arguments.resume)
    else:
        from fourstroke.train.distill import DistillRecipe, train_distill

        folder = train_distill(load_recipe(DistillRecipe, arguments.recipe, overrides), arguments.resume)
    print(f"trained model: {folder}", file=sys.stderr)
    return {"model": str(folder)}


def _enhance(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.enhance.enhancer import PromptEnhancer
    from fourstroke.pipeline import ENHANCER, find_model

    _quiet()
    _say_warnings()
    if arguments.endpoint:
        enhancer = PromptEnhancer.from_endpoint(_endpoint(arguments))
    else:
        folder = find_model(arguments.model) / ENHANCER
        if not folder.exists():
            raise ValueError(f"{folder.parent} has no {ENHANCER} folder; name another --model, or an --endpoint")
        enhancer = PromptEnhancer.from_pretrained(folder, device=arguments.device)
    rewrites = []
    for prompt in arguments.prompt:
        rewrite = enhancer(prompt, seed=arguments.seed)
        rewrites.append(dataclasses.asdict(rewrite))
        if not arguments.json:
            print(rewrite.prompt)
    return {"rewrites": rewrites}


def _degrade(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.enhance.bulk import degrade_file
    from fourstroke.enhance.chat_engine import ChatEngine
    from fourstroke.enhance.degrade import WorldEngine

    out = arguments.out or arguments.captions.with_name(f"{arguments.captions.stem}.triplets.jsonl")
    engine = ChatEngine(_endpoint(arguments)) if arguments.endpoint else WorldEngine()
    workers = arguments.workers if arguments.endpoint else 1
    tally = degrade_file(arguments.captions, out, engine, seed=arguments.seed, workers=workers)
    if tally.rejected:
        print(f"{tally.rejected} rejects, with reasons: {out}.rejects.jsonl", file=sys.stderr)
    if not arguments.json:
        print(f"{out}: {tally.done} triplets, {tally.rejected} rejects, {tally.skipped} done before")
    return {"triplets": str(out), **dataclasses.asdict(tally)}


def _endpoint(arguments: argparse.Namespace) -> Any:
    from fourstroke.enhance.endpoint import Endpoint

    if not arguments.endpoint_model:
        raise ValueError("an endpoint needs --endpoint-model, the name under which it serves the model")
    return Endpoint(url=arguments.endpoint, model=arguments.endpoint_model)


def _say_warnings() -> None:
    """One line for a warning of the enhancer, as for an error, each time."""
    from fourstroke.enhance.enhancer import EnhancerWarning

    show = warnings.showwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if issubclass(category, EnhancerWarning):
            print(f"fourstroke: {message}", file=sys.stderr)
        else:
            show(message, category, filename, lineno, file, line)

    warnings.showwarning = one_line
    warnings.simplefilter("always", EnhancerWarning)


def _speedrun(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.speedrun import speedrun

    _quiet()
    return {"model": str(speedrun(arguments.family, arguments.recipes, arguments.runs, arguments.n))}


def _eval(arguments: argparse.Namespace) -> dict[str, Any]:
    common = {key: getattr(arguments, key) for key in ("world", "n", "device", "sheet")}
    if arguments.what == "composition":
        from fourstroke.evaluate.composition import evaluate_composition, table

        own = {key: getattr(arguments, key) for key in ("captions", "split", "first", "steps", "guidance", "batch")}
        result = evaluate_composition(arguments.model, **common, **own)
    else:
        from fourstroke.evaluate.reconstruction import evaluate_reconstruction, table

        own = {key: getattr(arguments, key) for key in ("images", "peers", "read", "lpips")}
        result = evaluate_reconstruction(arguments.model, **common, **own)
    if not arguments.json:
        print(table(result))
    return result


def _serve(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from fourstroke.serve.server import ServeConfig, build_engine, serve
    except ModuleNotFoundError as error:
        raise RuntimeError(f"serving needs {error.name}: run `make install`, or pip install '.[serve]'") from None
    from fourstroke.enhance.enhancer import PromptEnhancer
    from fourstroke.pipeline import Pipeline

    _quiet()
    _say_warnings()
    names = ("host", "port", "queue", "rows", "request_seconds", "replicas", "replica_load", "replica_cpus")
    keys = [*arguments.api_key, *os.environ.get("FOURSTROKE_API_KEYS", "").split()]
    config = ServeConfig(
        **{name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None},
        api_keys=tuple(keys),
        cors_origins=tuple(arguments.cors),
    )
    if not config.loopback and not keys:
        print(f"fourstroke: anyone who reaches {config.host} may draw; --api-key changes that", file=sys.stderr)
    if arguments.ray:
        return _serve_cluster(arguments, config)
    pipe = Pipeline.from_pretrained(arguments.model, device=arguments.device)
    if arguments.endpoint:
        pipe.enhancer = PromptEnhancer.from_endpoint(_endpoint(arguments))
    print(f"drawing with {pipe.info.name}; studio at http://{config.host}:{config.port}/", file=sys.stderr)
    serve(build_engine(pipe, config), config)
    return {"model": pipe.info.name}


def _serve_cluster(arguments: argparse.Namespace, config: Any) -> dict[str, Any]:
    from fourstroke.serve.server import serve

    if arguments.endpoint:
        raise ValueError("--endpoint does not go with --ray: replicas use their model's own enhancer")
    try:
        from fourstroke.serve.cluster import cluster
    except ModuleNotFoundError as error:
        raise RuntimeError(f"--ray needs {error.name}: pip install '.[cluster]'") from None
    print(f"replicas by Ray at {arguments.ray}; studio at http://{config.host}:{config.port}/", file=sys.stderr)
    serve(cluster(arguments.ray, arguments.model, arguments.device, config), config)
    return {"model": arguments.model, "ray": arguments.ray}


def _span(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    return int(least), int(most or least)


def _estimate(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.estimate import estimate_recipe, report

    found, plain = estimate_recipe(arguments.recipe, list(arguments.overrides), arguments.text_tokens, arguments.tflops)
    if not arguments.json:
        print(report(found, arguments.tflops))
    return plain


def _doctor(arguments: argparse.Namespace) -> dict[str, Any]:
    from fourstroke.doctor import examine

    facts = examine()
    if not arguments.json:
        for fact in facts:
            print(f"{'ok  ' if fact.good else 'miss'}  {fact.name:<12} {fact.value}")
    return {fact.name: fact.value for fact in facts}


def _quiet() -> None:
    """Keep transformers' loading bars away; ours tell more."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _open(path: Path) -> Any:
    from PIL import Image

    try:
        return Image.open(path).copy()
    except (OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the input image {path}: {_one_line(error)}") from None


def _progress(label: str) -> Any:
    def on_step(step: int, steps: int, _: Any) -> None:
        end = "\n" if step == steps else ""
        print(f"\r{label}step {step}/{steps}", end=end, file=sys.stderr, flush=True)

    return on_step


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fourstroke", description="From prompt to picture in four strokes.")
    parser.add_argument("--version", action="version", version=f"fourstroke {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    generate = commands.add_parser("generate", help="draw pictures from prompts")
    generate.add_argument("prompt", nargs="+", help="what to draw; several prompts are drawn one after the other")
    generate.set_defaults(run=_generate, image=[])
    edit = commands.add_parser("edit", help="change pictures by an instruction")
    edit.add_argument("prompt", nargs=1, help="what to change")
    edit.add_argument("--image", type=Path, action="append", required=True, help="an input image; may be repeated")
    edit.set_defaults(run=_generate)
    for command in (generate, edit):
        command.add_argument("--model", help="folder or hub id (default: the best bundled model)")
        command.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the pictures")
        command.add_argument("--width", type=int, help="pixels, a multiple of 32")
        command.add_argument("--height", type=int, help="pixels, a multiple of 32")
        command.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
        command.add_argument("--guidance", type=float, help="guidance scale; 1 switches it off")
        command.add_argument("--negative", help="what guidance leads away from")
        command.add_argument("--num-images", type=int, default=1, help="pictures for each prompt")
        command.add_argument("--seed", type=int, help="seed of the first picture (default: drawn, and printed)")
        command.add_argument("--transparent", action="store_true", help="RGBA with a transparent background")
        command.add_argument("--sheet", type=Path, help="also write one sheet of all pictures with their prompts")
        command.add_argument("--device", help="cpu, cuda, cuda:1 … (default: the GPU if there is one)")
        command.add_argument("--json", action="store_true", help="print one JSON object")

    generate.add_argument(
        "--enhance",
        action=argparse.BooleanOptionalAction,
        help="rewrite prompts with the model's enhancer first (default: if it has one)",
    )

    enhance = commands.add_parser("enhance", help="rewrite prompts and print them")
    enhance.add_argument("prompt", nargs="+", help="what to rewrite")
    enhance.add_argument("--model", help="folder or hub id with a prompt_enhancer (default: the best bundled model)")
    enhance.add_argument("--seed", type=int, default=0, help="the same prompt and seed give the same rewrite")
    enhance.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
    enhance.set_defaults(run=_enhance)

    data = commands.add_parser("data", help="make training data")
    kinds = data.add_subparsers(required=True, metavar="WHAT", dest="what")
    degrade = kinds.add_parser("degrade", help="captions to triplets (short prompt, reasoning, caption)")
    degrade.add_argument("captions", type=Path, help="JSONL of rows with a caption, and a scene where there is one")
    degrade.add_argument("--out", type=Path, help="triplets, appended to (default: <captions>.triplets.jsonl)")
    degrade.add_argument("--seed", type=int, default=0, help="of the sampled strategies")
    degrade.add_argument("--workers", type=int, default=8, help="captions asked about at a time")
    degrade.set_defaults(run=_degrade)
    for command in (enhance, degrade):
        command.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server, http://host:port/v1")
        command.add_argument("--endpoint-model", metavar="NAME", help="the model it serves")
        command.add_argument("--json", action="store_true", help="print one JSON object")

    train = commands.add_parser("train", help="train a stage by a recipe")
    train.add_argument("stage", choices=STAGES)
    train.add_argument("--recipe", type=Path, required=True, help="recipes/<family>/<stage>.yaml")
    train.add_argument("--resume", action="store_true", help="continue the run in the recipe's folder")
    train.add_argument("--json", action="store_true", help="print one JSON object")
    train.add_argument("overrides", nargs="*", metavar="key=value", help="change a number of the recipe")
    train.set_defaults(run=_train)

    speedrun = commands.add_parser("speedrun", help="train and measure a family's whole chain from nothing")
    speedrun.add_argument("family", help="micro (two CPU cores) or mini (one GPU)")
    speedrun.add_argument("--recipes", type=Path, default=Path("recipes"), help="folder of the families' recipes")
    speedrun.add_argument("--runs", type=Path, default=Path("runs"), help="folder for the runs")
    speedrun.add_argument("--n", type=int, default=200, help="prompts and scenes to measure on")
    speedrun.add_argument("--json", action="store_true", help="print one JSON object")
    speedrun.set_defaults(run=_speedrun)

    evaluate = commands.add_parser("eval", help="measure a model")
    subjects = evaluate.add_subparsers(required=True, metavar="WHAT", dest="what")
    composition = subjects.add_parser("composition", help="objects, colours, relations and words of held-out prompts")
    composition.add_argument("--n", type=int, default=200, help="prompts")
    composition.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    composition.add_argument("--guidance", type=float, help="guidance scale")
    composition.add_argument("--captions", choices=("mixed", "short", "rich"), default="mixed", help="kind of prompts")
    composition.add_argument(
        "--split",
        choices=("heldout", "train"),
        default="heldout",
        help="combinations that training never shows, or does",
    )
    composition.add_argument("--first", type=int, default=0, help="seed of the first prompt")
    composition.add_argument("--batch", type=int, default=8, help="pictures drawn together; does not change them")
    composition.add_argument("--sheet", type=Path, help="write a sheet of the first 32 pictures with the verdicts")
    reconstruction = subjects.add_parser("reconstruction", help="PSNR, SSIM, LPIPS and NED of autoencoders")
    reconstruction.add_argument("--n", type=int, default=200, help="held-out scenes and pages, or pictures at most")
    reconstruction.add_argument("--images", type=Path, help="a folder, a picture or .tar shards in place of the world")
    reconstruction.add_argument("--peer", dest="peers", action="append", default=[], help="autoencoder beside it")
    reconstruction.add_argument("--read", action="store_true", help="read the words of both sides (needs RapidOCR)")
    reconstruction.add_argument("--lpips", type=Path, help="folder or file of published LPIPS weights: measure it too")
    reconstruction.add_argument("--sheet", type=Path, help="write originals, reconstructions and differences")
    for subject in (composition, reconstruction):
        subject.add_argument("--model", help="folder or hub id (default: the best bundled model)")
        subject.add_argument("--world", type=Path, help="world.yaml (default: recipes/<family>/world.yaml)")
        subject.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
        subject.add_argument("--json", action="store_true", help="print one JSON object")
        subject.set_defaults(run=_eval)

    server = commands.add_parser("serve", help="serve OpenAI's image API, and the studio as a web page")
    server.add_argument("--model", help="folder or hub id (default: the best bundled model)")
    server.add_argument("--device", help="cpu, cuda … (default: the GPU if there is one)")
    server.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine alone)")
    server.add_argument("--port", type=int, help="port to listen on (default: 8000)")
    server.add_argument("--endpoint", metavar="URL", help="prompt enhancer elsewhere: an OpenAI-compatible server")
    server.add_argument("--endpoint-model", metavar="NAME", help="the model it serves")
    server.add_argument("--api-key", action="append", default=[], help="may be repeated; also FOURSTROKE_API_KEYS")
    server.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="origin whose pages may call")
    server.add_argument("--queue", type=int, help="pictures that may wait before 429 (default: 64)")
    server.add_argument("--rows", type=int, help="pictures that share a step (default: 32)")
    server.add_argument("--request-seconds", type=float, help="longest a request may take (default: 600)")
    server.add_argument(
        "--ray", metavar="ADDRESS", help="draw with replicas of a Ray cluster: host:port, auto, or local"
    )
    server.add_argument("--replicas", type=_span, metavar="MIN:MAX", help="with --ray (default: 1:4)")
    server.add_argument("--replica-load", type=float, help="pictures in each that call for another (default: 8)")
    server.add_argument("--replica-cpus", type=float, help="cores set aside for each (default: 1)")
    server.set_defaults(run=_serve)

    needs = commands.add_parser("estimate", help="say what a distillation needs, before it is started")
    needs.add_argument("recipe", type=Path, help="recipes/<family>/distill.yaml")
    needs.add_argument("overrides", nargs="*", metavar="key=value", help="change a number of the recipe")
    needs.add_argument("--text-tokens", type=int, default=400, help="of a prompt")
    needs.add_argument("--tflops", type=float, default=400, help="10^12 operations a second that are really reached")
    needs.add_argument("--json", action="store_true", help="print one JSON object")
    needs.set_defaults(run=_estimate)

    doctor = commands.add_parser("doctor", help="say what this installation can do")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    doctor.set_defaults(run=_doctor)
    return parser


if __name__ == "__main__":
    sys.exit(main())
