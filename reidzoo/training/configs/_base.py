"""What every training run has, and how settings are made from a mapping and keywords."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from reidzoo.errors import ConfigError, did_you_mean
from reidzoo.training._field_types import wrong_types

C = TypeVar("C", bound="TrainConfig")


def option(default: Any, help: str, *, choices: tuple[str, ...] | None = None) -> Any:
    """A dataclass field with its one-line help and, for words, the words that are allowed."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What every training run has. Sizes are (height, width) in pixels; `batch_size` counts images per rank."""

    epochs: int = option(100, "passes over the training images")
    batch_size: int = option(64, "images per rank and optimiser step")
    micro_batch: int = option(0, "images per forward pass, to save memory (0: the whole batch)")
    img_size: tuple[int, int] = option((256, 128), "height and width of the network's input")
    lr: float = option(5e-4, "learning rate")
    weight_decay: float = option(1e-4, "weight decay")
    seed: int = option(0, "seed of initial weights, sampling and augmentation")
    num_workers: int = option(4, "loader processes per rank")
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))
    devices: int = option(1, "ranks to start on this machine (GPUs, or CPU processes)")
    precision: str = option(
        "auto", "number format of the forward pass (auto: bf16 on a GPU)", choices=("auto", "fp32", "bf16", "fp16")
    )
    grad_checkpointing: bool = option(False, "compute activations again in the backward pass instead of keeping them")
    compile: bool = option(False, "compile the network with torch.compile")
    shard_optimizer: bool = option(False, "each rank keeps only its share of the optimiser's state (ZeRO)")
    resume: str = option("auto", "go on from the run folder's last checkpoint", choices=("auto", "never"))
    overwrite: bool = option(False, "delete the run that is in the run folder and start anew")
    checkpoint_every_steps: int = option(0, "extra checkpoints between the ends of epochs (0: none)")
    keep_every: int = option(0, "epochs between checkpoints that are kept (0: only the last one is)")
    eval_every: int = option(0, "epochs between evaluations (0: after the last one only)")
    skip_corrupt: bool = option(False, "leave unreadable images out instead of stopping before the run")

    def __post_init__(self) -> None:
        problems = list(wrong_types(self)) or [text for wrong, text in self._checks() if wrong]
        if problems:
            raise ConfigError(f"{type(self).__name__}: " + "; ".join(problems))

    def _checks(self) -> Iterable[tuple[bool, str]]:
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata["choices"]
            if choices and value not in choices:
                yield True, f"{f.name} is {value!r}, expected one of {', '.join(choices)}"
        for name in ("epochs", "batch_size", "devices"):
            yield getattr(self, name) < 1, f"{name} is {getattr(self, name)}, expected at least 1"
        counts = ("seed", "micro_batch", "num_workers", "checkpoint_every_steps", "keep_every", "eval_every")
        for name in (*counts, "lr", "weight_decay"):
            yield getattr(self, name) < 0, f"{name} is {getattr(self, name)}, expected at least 0"
        yield min(self.img_size) < 16, f"img_size is {self.img_size}, expected (height, width) of at least 16"
        if self.micro_batch > 0:
            yield (
                self.batch_size % self.micro_batch > 0,
                f"batch_size {self.batch_size} is not a multiple of micro_batch {self.micro_batch}",
            )

    def to_json(self) -> str:
        """The settings as indented JSON."""
        return json.dumps(asdict(self), indent=2)


def make_config(cls: type[C], config: C | Mapping[str, Any] | None, overrides: Mapping[str, Any]) -> C:
    """Build a `cls` from a config (or a mapping such as a parsed ``config.json``) and keyword overrides.

    Raises:
        ConfigError: a field that does not exist (with the closest names), or a value out of range.
    """
    known = {f.name: f for f in fields(cls)}
    if config is not None and not isinstance(config, (cls, Mapping)):
        raise ConfigError(f"config is a {type(config).__name__}; this method takes a {cls.__name__} or a mapping")
    base = {} if config is None else dict(config) if isinstance(config, Mapping) else asdict(config)
    values = {**base, **overrides}
    for name in values:
        if name not in known:
            raise ConfigError(f"{cls.__name__} has no field {name!r}.{did_you_mean(name, known)}")
    return cls(**{name: _plain(value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """What a field holds: JSON's lists back to tuples, paths as texts."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(_plain(v) for v in value) if isinstance(value, (list, tuple)) else value
