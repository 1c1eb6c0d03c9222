"""The run folder: what is in it, how files get there in one piece, and when a run may go on from them.

::

    output_dir/
      config.json            the settings and what they were applied to
      metrics.jsonl          one line per step and per epoch
      curves.png             drawn at the end of every epoch
      checkpoints/last.pt    everything that the next step needs
      model.safetensors      the trained network, for create_model("local-dir:output_dir")
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reidzoo._files import atomic
from reidzoo.errors import CheckpointError, ConfigError, TrainingError

# Settings that may differ between a run and its continuation: they don't change what is computed (`batch_size` may,
# because the run notes the images per step of all ranks together).
_FREE = {
    "num_workers",
    "device",
    "devices",
    "batch_size",
    "resume",
    "overwrite",
    "checkpoint_every_steps",
    "eval_every",
    "skip_corrupt",
}


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values atomically."""
    with atomic(path) as temporary:
        torch.save(dict(state), temporary)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        CheckpointError: the file is damaged or not a checkpoint of a run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be read ({e}). Delete it, or start anew with overwrite=True.") from e
    if not isinstance(state, dict) or "position" not in state:
        raise CheckpointError(f"{path} is not the checkpoint of a run: it has no 'position'")
    return state


class RunFolder:
    """An output folder that belongs to one run."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.last = self.path / "checkpoints" / "last.pt"
        self.metrics = self.path / "metrics.jsonl"
        self.curves = self.path / "curves.png"
        self.model = self.path / "model.safetensors"

    def open(self, run: Mapping[str, Any], *, resume: str, overwrite: bool) -> bool:
        """Claim the folder for `run` (settings and what they apply to). Return True if the run goes on from `last`.

        Raises:
            TrainingError: the folder holds another run, or files that are not a run.
            ConfigError: `overwrite` together with a folder that is no run folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise TrainingError(f"output_dir {self.path} is a file; expected a folder or a new name")
        occupied = self.path.exists() and any(self.path.iterdir())
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
            orphan.unlink()
        with atomic(self.config) as temporary:
            temporary.write_text(json.dumps(run, indent=2) + "\n")
        return self.last.exists()

    def _clear(self) -> None:
        """Delete what a run writes, and nothing else."""
        for file in (self.metrics, self.curves, self.model, self.config):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.last.parent, ignore_errors=True)

    def _check_same(self, run: Mapping[str, Any]) -> None:
        before, now = _flat(json.loads(self.config.read_text())), _flat(json.loads(json.dumps(run)))
        changed = [
            f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key.rpartition(".")[2] not in _FREE
        ]
        if changed:
            raise TrainingError(
                f"output_dir {self.path} holds a run with other settings ({'; '.join(changed)}). Use these settings "
                "to go on, another output_dir, or overwrite=True (command line: --overwrite) to replace it."
            )


def _flat(run: Mapping[str, Any]) -> dict[str, Any]:
    return {**{k: v for k, v in run.items() if k != "config"}, **{f"config.{k}": v for k, v in run["config"].items()}}
