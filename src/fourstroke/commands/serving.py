"""The command `serve`: here, or by replicas on a cluster."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any

from fourstroke.commands.options import endpoint_of, loading
from fourstroke.commands.terminal import quiet, say_warnings


def serve(arguments: argparse.Namespace) -> dict[str, Any]:
    """Serve until interrupted."""
    try:
        from fourstroke.serve.server import ServeConfig, build_engine, listen, load_pipeline, serve
    except ModuleNotFoundError as error:
        raise RuntimeError(f"serving needs {error.name}: run `make install`, or pip install '.[serve]'") from None
    from fourstroke.enhance.enhancer import PromptEnhancer

    quiet()
    say_warnings()
    replicas = ("replicas", "replica_load", "replica_cpus")
    names = ("host", "port", "queue", "rows", "kv_bytes", "request_seconds", "step_cache", *replicas)
    keys = [*arguments.api_key, *os.environ.get("FOURSTROKE_API_KEYS", "").split()]
    config = ServeConfig(
        **{name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None},
        api_keys=tuple(keys),
        cors_origins=tuple(arguments.cors),
        loras=tuple(arguments.lora),
    )
    given = [name for name in replicas if getattr(arguments, name) is not None]
    if given and not arguments.ray:
        raise ValueError(f"--{given[0].replace('_', '-')} is for replicas of a Ray cluster; say which with --ray")
    if arguments.endpoint_model and not arguments.endpoint:
        raise ValueError("--endpoint-model is the model of an --endpoint; say where that is")
    endpoint = endpoint_of(arguments) if arguments.endpoint else None
    if arguments.ray and not re.fullmatch(r"auto|local|(ray://)?[^/\s]+:[0-9]+", arguments.ray):
        raise ValueError(f"--ray {arguments.ray}: write host:port of a cluster, auto, or local")
    sockets = listen(config)
    if not config.loopback and not keys:
        print(f"fourstroke: anyone who reaches {config.host} may draw; --api-key changes that", file=sys.stderr)
    if arguments.ray:
        return _serve_cluster(arguments, config, sockets)
    pipe = load_pipeline(arguments.model, arguments.device, config, **loading(arguments))
    if endpoint is not None:
        pipe.enhancer = PromptEnhancer.from_endpoint(endpoint)
    print(f"drawing with {pipe.info.name}; studio at {_address(config, sockets)}", file=sys.stderr)
    serve(build_engine(pipe, config), config, sockets)
    return {"model": pipe.info.name}


def _address(config: Any, sockets: Any) -> str:
    """The server's URL, with the port that it really has."""
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"http://{host}:{sockets[0].getsockname()[1]}/"


def _serve_cluster(arguments: argparse.Namespace, config: Any, sockets: Any) -> dict[str, Any]:
    from fourstroke.device import name_device
    from fourstroke.serve.server import serve

    if arguments.endpoint:
        raise ValueError("--endpoint does not go with --ray: replicas use their model's own enhancer")
    given = [name for name, value in loading(arguments).items() if value not in (None, "none", False)]
    if given:
        option = given[0].replace("_", "-")
        raise ValueError(f"--{option} does not go with --ray: replicas hold the model whole, as its folder has it")
    if arguments.device is not None:
        name_device(arguments.device)  # whether it is there, the replicas' machines know
    try:
        from fourstroke.serve.cluster import cluster
    except ModuleNotFoundError as error:
        raise RuntimeError(f"--ray needs {error.name}: pip install '.[cluster]'") from None
    print(f"replicas by Ray at {arguments.ray}; studio at {_address(config, sockets)}", file=sys.stderr)
    serve(cluster(arguments.ray, arguments.model, arguments.device, config), config, sockets)
    return {"model": arguments.model, "ray": arguments.ray}
