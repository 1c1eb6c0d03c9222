"""From a config dataclass to command-line flags: names, types, defaults, choices and help, all from its fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, get_args, get_origin, get_type_hints

from reidzoo.training.configs import TrainConfig


def add_config_flags(parser: argparse.ArgumentParser, config: type[Any], method: str) -> None:
    """Add one flag per field of `config`; those that every training method has form a group of their own."""
    hints = get_type_hints(config)
    common = {f.name for f in fields(TrainConfig)} if issubclass(config, TrainConfig) else set()
    shared = parser.add_argument_group("settings of all methods")
    own = parser.add_argument_group(f"settings of {method}")
    for f in fields(config):
        _add_flag(shared if f.name in common else own, f, hints[f.name])


def typed_settings(args: argparse.Namespace, config: type[Any]) -> dict[str, Any]:
    """Return the settings that were given as flags; the others keep the defaults of `config`."""
    return {f.name: getattr(args, f.name) for f in fields(config) if hasattr(args, f.name)}


def show(value: Any) -> str:
    """Write a setting as one would type it: (256, 128) as 256x128, (0.8, 1.0) as 0.8,1.0."""
    if not isinstance(value, tuple):
        return str(value)
    if value and isinstance(value[0], tuple):
        return ",".join(f"{epoch}:{k}" for epoch, k in value)
    return ("x" if isinstance(value[0], int) else ",").join(map(str, value))


def size(text: str) -> tuple[int, int]:
    """Read ``256x128``: height and width in pixels."""
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, like 256x128") from None


def _floats(count: int) -> Callable[[str], tuple[float, ...]]:
    def read(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count:
            example = ",".join(["0.5"] * count)
            raise argparse.ArgumentTypeError(f"{text!r} is not {count} numbers with commas, like {example}")
        return values

    return read


def _schedule(text: str) -> int | tuple[tuple[int, int], ...]:
    try:
        if ":" not in text:
            return int(text)
        steps = [step.split(":") for step in text.split(",")]
        return tuple((int(epoch), int(value)) for epoch, value in steps)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor EPOCH:K pairs, like 0:2,40:4") from None


def _reader(hint: Any) -> tuple[Callable[[str], Any], str]:
    """How to read a value of this type, and how to call it in the usage."""
    if hint in (int, float, str):
        return hint, {int: "N", float: "X", str: "NAME"}[hint]
    if get_origin(hint) is tuple:
        if get_args(hint) == (int, int):
            return size, "HxW"
        return _floats(len(get_args(hint))), ",".join("X" * len(get_args(hint)))
    return _schedule, "K|EPOCH:K,..."


def _add_flag(group: Any, f: Field[Any], hint: Any) -> None:
    flag, choices = "--" + f.name.replace("_", "-"), f.metadata["choices"]
    text = f"{f.metadata['help']} (default: {show(f.default)})".replace("%", "%%")
    if hint is bool:
        text = f.metadata["help"].replace("%", "%%")
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        return
    read, metavar = _reader(hint)
    group.add_argument(
        flag,
        type=read,
        choices=choices,
        metavar=None if choices else metavar,
        default=argparse.SUPPRESS,
        help=text,
    )
