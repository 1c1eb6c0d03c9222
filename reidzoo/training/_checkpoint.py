"""The run folder: what is in it, how files get there in one piece, and when a run may go on from them.

::

    output_dir/
      config.json            the settings and what they were applied to
      metrics.jsonl          one line per step and per epoch
      images.json            which training images could be decoded
      curves.png             drawn at ends of epochs, twice a minute at most
      checkpoints/last.pt    everything that the next step needs
      checkpoints/epoch0005.pt  the same after that epoch, where ``keep_every`` asks for some
      checkpoints/failed.pt  the same of a run that diverged, from when that was noticed
      checkpoints/failed_batch.pt  the images of the step that showed it
      model.safetensors      the trained network, for create_model("local-dir:output_dir")
      best.safetensors       the network with the best mAP of the evaluations, where ``eval_every`` asks for some
      tensorboard/, wandb/   where these are in use
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from reidzoo._files import atomic
from reidzoo.errors import CheckpointError, ConfigError, TrainingError

# What may differ between a run and its continuation: it doesn't change what is computed, up to rounding (`batch_size`
# may, because the run notes the images per step of all ranks together).
FREE = {
    "num_workers",
    "device",
    "devices",
    "batch_size",
    "resume",
    "overwrite",
    "checkpoint_every_steps",
    "keep_every",
    "eval_every",
    "probe",
    "collapse_steps",
    "skip_corrupt",
    "ranks",
    "grad_checkpointing",
    "compile",
    "shard_optimizer",
}


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically.

    Raises:
        OSError: they cannot be written: the disk is full, for one.
    """
    with atomic(path) as temporary, temporary.open("wb") as f:
        try:
            torch.save(dict(state), f)
        except RuntimeError as e:  # torch speaks of positions in its archive, while it handles what happened
            if isinstance(e.__context__, OSError):
                raise e.__context__ from None
            raise


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: the file is damaged or not a checkpoint of a run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as e:
        raise CheckpointError(
            f"{path} is missing on this machine. The machines of a run need its output_dir on a disk that they share."
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError, UnpicklingError) as e:
        raise CheckpointError(f"{path} cannot be read ({e}). Delete it, or start anew with overwrite=True.") from e
    if not isinstance(state, dict) or "position" not in state:
        raise CheckpointError(f"{path} is not the checkpoint of a run: it has no 'position'")
    return state


class RunFolder:
    """An output folder that belongs to one run.

    Attributes:
        header: what its checkpoints say about the network in them: enough for `create_model` to build it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.last = self.path / "checkpoints" / "last.pt"
        self.failed = self.path / "checkpoints" / "failed.pt"
        self.failed_batch = self.path / "checkpoints" / "failed_batch.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.curves = self.path / "curves.png"
        self.images = self.path / "images.json"
        self.model = self.path / "model.safetensors"
        self.best = self.path / "best.safetensors"
        self.tensorboard = self.path / "tensorboard"
        self.wandb = self.path / "wandb"
        self.header: dict[str, str] = {}

    def record(self) -> dict[str, Any] | None:
        """Return what `open` noted of the run that can go on here, None where there is none.

        Raises:
            CheckpointError: the note was edited and is no JSON any more.
        """
        if not (self.last.exists() and self.config.exists()):
            return None
        try:
            record: dict[str, Any] = json.loads(self.config.read_text())
        except ValueError as e:
            raise CheckpointError(
                f"{self.config} is damaged ({e}), so its settings are not known. Repair it, or start anew with "
                "overwrite=True (command line: --overwrite)."
            ) from e
        return record

    def kept(self, epoch: int) -> Path:
        """Return where the checkpoint after `epoch` epochs is kept."""
        return self.last.with_name(f"epoch{epoch:04d}.pt")

    def open(self, run: Mapping[str, Any], *, resume: str, overwrite: bool) -> bool:
        """Claim the folder for `run` (settings and what they apply to). Return True if the run goes on from `last`.

        Raises:
            TrainingError: the folder holds another run, or files that are not a run.
            ConfigError: `overwrite` together with a folder that is no run folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"output_dir {self.path} is a file; expected a folder or a new name")
        # A run that was killed while it claimed the folder left no more than a part of its config.
        occupied = self.path.exists() and any(not f.match(".config.json.*.tmp") for f in self.path.iterdir())
        if occupied and not self.config.exists():
            raise ConfigError(f"output_dir {self.path} holds files that are not a run. Choose a new folder.")
        if occupied and overwrite:
            self._clear()
        elif self.last.exists() and resume == "never":
            raise TrainingError(
                f"output_dir {self.path} holds a run already. Use resume='auto' to go on, or overwrite=True (command "
                "line: --overwrite) to replace it."
            )
        elif self.last.exists():  # before its first checkpoint a run has nothing to lose
            self._check_same(run)
        for orphan in self.path.rglob(".*.tmp"):
            orphan.unlink(missing_ok=True)  # what still ends there may have moved it
        with atomic(self.config) as temporary:
            temporary.write_text(json.dumps(run, indent=2) + "\n")
        return self.last.exists()

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else: `last` first, `config` at last, so that a kill leaves a run."""
        files = (self.last, self.failed, self.failed_batch, self.metrics, self.curves, self.images, self.model)
        for file in (*files, self.best):
            file.unlink(missing_ok=True)
        for place in (self.last.parent, self.tensorboard, self.wandb):
            shutil.rmtree(place, ignore_errors=True)
        self.config.unlink(missing_ok=True)

    def _check_same(self, run: Mapping[str, Any]) -> None:
        before, now = _flat(self.record() or {"config": {}}), _flat(json.loads(json.dumps(run)))
        # Images per forward pass may follow the number of ranks, or eight ranks' work would not fit one's memory.
        free = FREE | ({"micro_batch"} if before.get("ranks") != now.get("ranks") else set())
        # A setting that only one side has is one that the other's version of reidzoo did not know.
        changed = [
            f"{key}: {before[key]!r} -> {now[key]!r}"
            for key in sorted(before.keys() & now.keys())
            if before[key] != now[key] and key.rpartition(".")[2] not in free
        ]
        if changed:
            raise TrainingError(
                f"output_dir {self.path} holds a run with other settings ({'; '.join(changed)}). Use these settings "
                "to go on, another output_dir, or overwrite=True (command line: --overwrite) to replace it."
            )


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in run.items() if k != "config"}, **{f"config.{k}": v for k, v in run["config"].items()}}
