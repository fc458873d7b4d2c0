"""Recipes: YAML files that hold every number of a run, read strictly into frozen dataclasses.

An unknown key, a missing one or a wrong type is an error of one line that names the place. A value that names another
YAML file (`data: world.yaml`), at any depth, is replaced by that file's content, so that stages share one dataset. A
mapping that `extends` a YAML file has that file's keys too, below its own (`{extends: world.yaml, transparent: 1.0}`):
groups are merged, unless each names another `kind`; other values and lists are replaced. A key that is chosen from a
registry (`data: {kind: folder, path: pictures}`) becomes the dataclass of that kind; several of them may be a list, or
a group (`rewards: {valid: 0.25, length: {weight: 0.1, low: 30}}`).
"""

from __future__ import annotations

import dataclasses
import difflib
import platform
import subprocess
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import torch
import yaml

from fourstroke.files import user_path
from fourstroke.registry import Group, Registered, find
from fourstroke.version import __version__

T = TypeVar("T")
EXTENDS = "extends"
"""The key of a mapping that names the YAML file whose keys it has too."""


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file or key and what to do."""


def load_recipe(kind: type[T], path: Path, overrides: Sequence[str] = (), *, others: bool = False) -> T:
    """Read a recipe into the dataclass `kind`, with `key.sub=value` overrides applied last.

    With `others`, keys that `kind` does not have are passed over: they are another reader's.

    Raises:
        RecipeError: for a missing file, bad YAML, an unknown or missing key, or a value of another type.
    """
    tree = read_tree(Path(path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise RecipeError(f"override '{override}' should read key=value, for example optimizer.lr=0.001")
        put_value(tree, key, text, f"override '{override}'")
    if others:
        known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        tree = {key: value for key, value in tree.items() if key in known}
    return build(kind, tree, str(path))


def load_kind(group: Group, path: Path) -> Any:
    """Read a file that names one kind of a group and its options, YAML or JSON, into the dataclass of that kind.

    Raises:
        RecipeError: as `load_recipe`.
    """
    return _chosen(Registered(group), read_tree(Path(path)), str(path))


def build(kind: type[T], tree: dict[str, Any], where: str = "") -> T:
    """Turn nested dictionaries into the (nested) frozen dataclass `kind`, strictly."""
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(fields)}"
            raise RecipeError(f"{where}: unknown key '{key}'; {hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in tree:
            raise RecipeError(f"{where}: the key '{name}' is missing")
    values = {key: _convert(hints[key], value, f"{where}: {key}") for key, value in tree.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {error}") from None


def agree(key: str, wanted: Any, found: Any, source: Path | str) -> None:
    """Refuse sizes of a recipe's `key` that are not those of the checkpoint that the run starts from.

    `wanted` and `found` are dataclasses or mappings; what `wanted` does not name, or `wanted` None, agrees.

    Raises:
        RecipeError: with the first sizes that differ.
    """
    if wanted is None:
        return
    if differ := list(_differences(_plain(wanted), _plain(found))):
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise RecipeError(
            f"{key} is not what {source} holds: {', '.join(differ[:3])}{more}; leave {key} out ({key}=null), or start "
            "from another checkpoint"
        )


def _differences(wanted: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in wanted.items():
        there = found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _differences(value, there, f"{prefix}{key}.")
        elif value != there:
            yield f"{prefix}{key} is {value}, there {there}"


def resolved(recipe: Any) -> dict[str, Any]:
    """The whole recipe as plain data, with what it ran on: saved beside every run."""
    return {
        "recipe": _plain(recipe),
        "fourstroke": __version__,
        "git": git_revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }


def git_revision() -> str | None:
    """The revision of the working tree, with `+` if it has changes; None outside a repository."""
    try:
        here = Path(__file__).parent
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()


def put_value(tree: dict[str, Any], key: str, text: str, where: str) -> None:
    """Set `key`, whose dots lead into groups that are made where missing; raises RecipeError if one is a value."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"{where}: '{parent}' is a value, not a group of keys")
    tree[last] = parse_value(text, where)


def parse_value(text: str, where: str) -> Any:
    """YAML as plain values; `where` names its place in messages."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None


def read_tree(path: Path, above: Sequence[Path] = ()) -> dict[str, Any]:
    """The content of a YAML file, with that of the files that it names; `above` are those that name it.

    Raises:
        RecipeError: a file is missing, is no YAML mapping, or names itself.
    """
    above = (*above, path.resolve())
    if above[-1] in above[:-1]:
        raise RecipeError(f"{path} names itself, by way of {above[-2]}")
    try:
        tree = parse_value(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise RecipeError(f"no recipe at {path}; the bundled ones are recipes/<family>/<stage>.yaml") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} should hold keys and values, found {type(tree).__name__}")
    return _included(tree, path.parent, above)


def _included(value: Any, folder: Path, above: Sequence[Path]) -> Any:
    """A value with the content of the YAML files that it names, relative to `folder`."""
    if isinstance(value, str) and value.endswith(".yaml"):
        return read_tree(folder / value, above)
    if isinstance(value, list):
        return [_included(item, folder, above) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _included(item, folder, above) for key, item in value.items()}
    if EXTENDS not in found:
        return found
    if not isinstance(base := found.pop(EXTENDS), dict):
        raise RecipeError(f"{above[-1]}: {EXTENDS} should name a YAML file, found {base!r}")
    return _merged(base, found)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The keys of both, those of `above` where both have one; groups are merged unless they are of two kinds."""
    found = below | above
    for key in below.keys() & above.keys():
        first, second = below[key], above[key]
        if (
            isinstance(first, dict)
            and isinstance(second, dict)
            and second.get("kind", first.get("kind")) == first.get("kind")
        ):
            found[key] = _merged(first, second)
    return found


def _chosen(group: Registered, value: Any, where: str) -> Any:
    """The dataclass of the kind that `value` names, filled with its other keys."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("kind"), str):
        raise RecipeError(f"{where} should name its kind, for example {{kind: …}}; found {value!r}")
    try:
        found = find(group.group, kind)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from None
    return build(found, {key: item for key, item in value.items() if key != "kind"}, where)


def _registered(hint: Any) -> Registered | None:
    """The group whose kinds a type stands for."""
    return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Registered)), None)


def _listed(kind: str, options: Any, where: str) -> dict[str, Any]:
    """`kind: {option: …}`, or `kind: weight`, as an item of a list of kinds."""
    if isinstance(options, (int, float)) and not isinstance(options, bool):
        options = {"weight": options}
    if not isinstance(options, dict):
        raise RecipeError(f"{where}: {kind} should be a weight or a group of options, found {options!r}")
    return {"kind": kind, **options}


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        group = _registered(hint)
        return _convert(arguments[0], value, where) if group is None else _chosen(group, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        errors = []
        for option in (a for a in arguments if a is not type(None)):
            try:
                return _convert(option, value, where)
            except RecipeError as error:
                errors.append(error)
        raise errors[-1]
    if origin is Literal:
        if value in arguments:
            return value
        raise RecipeError(f"{where} is {value!r}; choose one of {', '.join(map(repr, arguments))}")
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return build(hint, value, where)
        raise RecipeError(f"{where} should be a group of keys, found {value!r}")
    if origin is tuple and isinstance(value, dict) and _registered(arguments[0]):
        listed = [(f"{where}.{kind}", _listed(kind, options, where)) for kind, options in value.items()]
        return tuple(_convert(arguments[0], item, place) for place, item in listed)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = arguments[0] if len(arguments) == 2 and arguments[1] is ... else None
        if inner is None and len(value) != len(arguments):
            raise RecipeError(f"{where} should have {len(arguments)} values, found {len(value)}")
        kinds = [inner] * len(value) if inner is not None else list(arguments)
        return tuple(_convert(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is dict and isinstance(value, dict):
        key, inner = arguments
        return {_convert(key, k, where): _convert(inner, item, f"{where}.{k}") for k, item in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is Path and isinstance(value, str):
        try:
            return user_path(value)
        except ValueError as error:
            raise RecipeError(f"{where}: {error}") from None
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise RecipeError(f"{where} should be {getattr(hint, '__name__', hint)}, found {value!r}")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = getattr(type(value), "kind", None)  # of what was chosen from a registry
        own = {"kind": kind} if isinstance(kind, str) else {}
        return own | {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
