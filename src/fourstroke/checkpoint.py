"""Reading and writing model folders: a `config.json` beside safetensors, plain or sharded with an index.

The layout is that of Qwen-Image-2.1 (and of diffusers), so files written here load there and the other way round.
Every file of JSON or tensors is read through this module, so whatever is wrong with one is a `CheckpointError` of one
line that names the file, and the key where there is one. A save is complete or absent (see `files`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fourstroke.choices import METHODS
from fourstroke.files import atomic_folder, write_json
from fourstroke.mapped import map_file
from fourstroke.quantized import QuantizedWeight, packed, unpacked

T = TypeVar("T")
WEIGHTS = "diffusion_pytorch_model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message names the file and what to do."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises `CheckpointError` if the file is missing, damaged or not an object."""
    text = read_text(path)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a ValueError too
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore the file") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} should hold a JSON object, found {type(value).__name__}")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON objects, one a line; raises `CheckpointError` with the number of a line that is none."""
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}: no valid JSON ({error}); restore the file") from None
        if not isinstance(row, dict):
            raise CheckpointError(f"{path}, line {number}: should be a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def read_text(path: Path) -> str:
    """The UTF-8 text of a file of a model; raises `CheckpointError` if it is missing, unreadable or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing: is {path.parent} a model folder?") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is no UTF-8 text ({error}); restore the file") from None


def pick(values: Mapping[str, Any], key: str, hint: Any, source: str | Path) -> Any:
    """One key of a JSON object that was read from `source`, as `convert` gives it."""
    if key not in values:
        raise CheckpointError(f"{source}: the key {key} is missing")
    return convert(hint, values[key], f"{source}: {key}")


def convert(hint: Any, value: Any, where: str) -> Any:
    """A value of a JSON file as the type `hint`: tuples from lists, floats from whole numbers, nothing else is bent.

    Raises:
        CheckpointError: it is of another type; `where` names the file and the key.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (kind for kind in arguments if kind is not type(None))
        return None if value is None else convert(inner, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: convert(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float) and abs(value) <= 1e300:  # no NaN either
        return float(value)
    if hint in (bool, int, str) and type(value) is hint:
        return value
    found = json.dumps(value, ensure_ascii=False)
    raise CheckpointError(f"{where} should be {_spoken(hint)}, found {found if len(found) < 80 else found[:79] + '…'}")


def config_of(
    kind: type[T],
    values: Mapping[str, Any],
    source: str | Path,
    *,
    only: Mapping[str, Sequence[Any]] | None = None,
    notes: Collection[str] = (),
) -> T:
    """The dataclass `kind` from the keys of a JSON file. No key is passed over that could change what is computed.

    Args:
        kind: has a field for every key that is honoured.
        values: the file's content.
        source: the file, for messages.
        only: keys that are not honoured, with the values at which they change nothing.
        notes: keys that never change anything; those that start with "_" are such too, unless `only` has them.

    Raises:
        CheckpointError: an unknown key, or a value of another type or that is not supported.
    """
    hints, found = typing.get_type_hints(kind), {}
    for key, value in values.items():
        if only and key in only:
            if value not in only[key]:
                accepted = f", only {' or '.join(json.dumps(choice) for choice in only[key])}" if only[key] else ""
                raise CheckpointError(f"{source}: {key} = {json.dumps(value)} is not supported{accepted}")
        elif key in hints:
            found[key] = convert(hints[key], value, f"{source}: {key}")
        elif key not in notes and not key.startswith("_"):
            raise CheckpointError(f"{source}: the key {key} is not supported")
    needed = [f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [name for name in needed if name not in found]:
        raise CheckpointError(f"{source}: the key {missing[0]} is missing")
    try:
        return kind(**found)
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None


def weight_files(folder: Path, name: str = WEIGHTS) -> list[Path]:
    """The safetensors files of a folder: the single file, or the shards that its index lists."""
    single, index = folder / name, folder / f"{name}.index.json"
    if single.exists():
        return [single]
    if index.exists():
        names = pick(read_json(index), "weight_map", dict[str, str], index)
        shards = [folder / shard for shard in sorted(set(names.values()))]
        if not shards or any(shard.parent != folder for shard in shards):
            raise CheckpointError(f"{index}: weight_map should name files of {folder}, and at least one")
        missing = [shard.name for shard in shards if not shard.exists()]
        if missing:
            raise CheckpointError(f"{folder} lacks the shards {', '.join(missing)}; download them again")
        return shards
    raise CheckpointError(f"{single} is missing; a model folder keeps its weights there (safetensors only)")


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """An open safetensors file; raises `CheckpointError` if it is missing, truncated, damaged or not allowed."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; restore the file") from None
    except PermissionError:
        raise CheckpointError(f"{path} may not be read by this user; chmod a+r it") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); restore the file") from None


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of one safetensors file."""
    with open_tensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - safe_open is no mapping


def map_tensors(folder: Path, name: str = WEIGHTS) -> dict[str, torch.Tensor]:
    """All tensors of a folder, mapped: their values are read from the disk when they are first used.

    Numbers in fewer bits and their scales come as one `QuantizedWeight`, of the type that the other weights have.

    Raises:
        CheckpointError: a file is missing, truncated or damaged.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder, name):
        with open_tensors(path):  # checks that the file is whole
            pass
        try:
            tensors |= map_file(path)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from None
    plain = [t.dtype for key, t in tensors.items() if t.is_floating_point() and t.itemsize > 1 and "scale" not in key]
    try:
        return unpacked(tensors, max(set(plain), key=plain.count)) if plain else tensors
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def quantization(tensors: Mapping[str, torch.Tensor]) -> str | None:
    """In how many bits weights are kept (`quantized.METHODS`); None if all are plain."""
    return next((tensor.method for tensor in tensors.values() if isinstance(tensor, QuantizedWeight)), None)


def read_quantization(config: dict[str, Any], source: str | Path) -> dict[str, Any]:
    """A config without what it says of quantisation; raises `CheckpointError` if that is not ours."""
    said = config.get("quantization")
    if said is not None and (not isinstance(said, dict) or said.get("method") not in METHODS or len(said) > 1):
        raise CheckpointError(f"{source}: quantization is {said}; its one key is method, one of {', '.join(METHODS)}")
    return {key: value for key, value in config.items() if key != "quantization"}


def read_pickle(path: Path, mmap: bool = False) -> dict[Any, Any]:
    """What `torch.save` wrote, a dictionary of tensors and plain values; nothing else is unpickled.

    Raises:
        CheckpointError: the file is missing, empty, truncated, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; restore the file") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or "it is empty").splitlines()[0]
        raise CheckpointError(f"{path} is damaged or no file of weights ({reason}); restore the file") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} should hold a dictionary of weights, found {type(state).__name__}")
    return state


def load_weights(model: nn.Module, folder: Path, name: str = WEIGHTS) -> None:
    """Load a folder's tensors into `model`, as `fill_weights` does."""
    fill_weights(model, map_tensors(folder, name), folder)


def fill_weights(model: nn.Module, tensors: Mapping[str, torch.Tensor], source: Path) -> None:
    """Put tensors that were read from `source` into `model`, strictly, see `check_fit`.

    A model on the meta device has the tensors themselves, in their types.
    """
    check_fit(model.state_dict(), tensors, source)
    model.load_state_dict(tensors, strict=True, assign=any(p.is_meta for p in model.parameters()))


def check_fit(own: Mapping[str, torch.Tensor], tensors: Mapping[str, Any], source: Path) -> None:
    """Raise `CheckpointError` unless names and shapes read from `source` are a model's own, to the last one."""
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(tensors[key].shape)} in the file and {tuple(own[key].shape)} by its config"
        for key in own.keys() & tensors.keys()
        if own[key].shape != tensors[key].shape
    ]
    whole = sorted(key for key in own.keys() & tensors.keys() if _whole(own[key]) != _whole(tensors[key]))
    problems = [f"{len(missing)} missing, first {missing[0]}"] if missing else []
    problems += [f"{len(unexpected)} unknown, first {unexpected[0]}"] if unexpected else []
    problems += [f"{len(shapes)} of another shape: {sorted(shapes)[0]}"] if shapes else []
    problems += [f"{len(whole)} of another type: {whole[0]} is {tensors[whole[0]].dtype}"] if whole else []
    if problems:
        of = "its config.json" if source.is_dir() else "the model's config.json"
        raise CheckpointError(f"the weights in {source} do not fit {of}: {'; '.join(problems)}")


def save_weights(model: nn.Module, folder: Path, config: dict[str, Any], name: str = WEIGHTS) -> None:
    """Write `config.json` and the weights of `model` as `folder`, in place of what it held.

    Raises:
        WriteError: if it cannot be written; `folder` is as it was.
    """
    state = model.state_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in packed(state).items()}
    method = quantization(state)
    config = config | ({"quantization": {"method": method}} if method else {})
    with atomic_folder(folder) as partial:
        save_file(tensors, partial / name, metadata={"format": "pt"})
        write_json(partial / "config.json", config)


def _whole(tensor: Any) -> bool:
    """Whether its numbers are whole ones."""
    return isinstance(tensor, torch.Tensor) and not tensor.is_floating_point()


def _spoken(hint: Any) -> str:
    """A type as users say it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(json.dumps, arguments))}"
    if origin is tuple:
        several = "a list" if arguments[-1] is ... else f"a list of {len(arguments)}"
        return f"{several}, each {_spoken(arguments[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text", dict: "an object"}
    return words[origin or hint]
