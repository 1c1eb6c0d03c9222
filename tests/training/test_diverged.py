"""A run whose loss or weights are no longer finite stops on all ranks, and the last good checkpoint stays."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from reidzoo import pretrain
from reidzoo.errors import CheckpointError, DivergedError
from reidzoo.training._checkpoint import RunFolder, load

JOB: dict[str, Any] = {
    "img_size": (32, 16),
    "device": "cpu",
    "epochs": 2,
    "batch_size": 12,
    "num_instances": 2,
    "local_crops": 1,
    "local_size": (16, 16),
    "output_dim": 16,
    "hidden_dim": 8,
    "warmup_epochs": 0,
    "freeze_last_layer": 0,
    "num_workers": 0,
}


class Tiny(nn.Module):
    """A backbone of one layer, in which something breaks.

    Args:
        nan_at: forward pass of a student's global views that gives NaN, from 1; 0: none.
        bad_gradient: whether a parameter gets NaN as its gradient while its value does no harm.
        width: of its feature.
    """

    def __init__(self, nan_at: int = 0, *, bad_gradient: bool = False, width: int = 8) -> None:
        super().__init__()
        self.embed_dim, self.nan_at, self.passes = width, nan_at, 0
        self.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 32, 16)}
        self.layer = nn.Linear(3, width)
        self.odd = nn.Parameter(torch.zeros(())) if bad_gradient else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.mean((2, 3)))
        self.passes += torch.is_grad_enabled() and x.shape[-2:] == (32, 16)
        if self.odd is not None:
            y = y + (0 * self.odd).sqrt()
        return y * float("nan") if torch.is_grad_enabled() and self.passes == self.nan_at else y


def test_nan_loss_names_the_step_and_keeps_both_states(people: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"the loss is nan at step 8\b.*last\.pt.*failed\.pt.*lower lr"):
        pretrain(Tiny(nan_at=8), f"folder:{people}", output_dir=folder.path, checkpoint_every_steps=1, **JOB)
    good, failed = load(folder.last), load(folder.failed)
    assert good["position"] == (1, 2, 7)
    assert failed["position"] == (1, 3, 8)
    assert all(t.isfinite().all() for t in good["method"]["student"].values())
    assert not all(t.isfinite().all() for t in failed["method"]["student"].values())
    # From the good one the run goes on, and the failed one goes when the folder is used anew.
    pretrain(Tiny(), f"folder:{people}", output_dir=folder.path, checkpoint_every_steps=1, **JOB)
    assert load(folder.last)["position"][:2] == (2, 0)
    pretrain(Tiny(), f"folder:{people}", output_dir=folder.path, overwrite=True, **JOB)
    assert not folder.failed.exists()


class Witness(Tiny):
    """Keeps what its student saw, also of copies."""

    seen: ClassVar[list[Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.shape[-2:] == (32, 16):
            self.seen.append(x.clone())
        return super().forward(x)


def test_the_batch_that_diverged_is_kept(people: Path, tmp_path: Path) -> None:
    """Losses are looked at when the epoch ends, and the views are those of the step in its middle."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"step 8\b.*the batch of that step in failed_batch\.pt") as error:
        pretrain(Witness(nan_at=8), f"folder:{people}", output_dir=folder.path, **JOB)
    assert error.value.step == 8
    batch = torch.load(folder.failed_batch, weights_only=True)
    assert torch.equal(torch.cat(batch["views"][:2]), Witness.seen[7])
    assert (batch["step"], len(batch["paths"])) == (8, 12)
    assert len(Witness.seen) > 8
    assert all(
        Path(path).parent.name == f"{pid:04d}" for path, pid in zip(batch["paths"], batch["labels"], strict=True)
    )


def test_bad_weights_are_not_saved_while_the_loss_looks_well(people: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"1 of \d+ weights are not finite after step 1, .*: backbone\.odd\."):
        pretrain(Tiny(bad_gradient=True), f"folder:{people}", output_dir=folder.path, checkpoint_every_steps=1, **JOB)
    assert not folder.last.exists()
    assert load(folder.failed)["method"]["student"]["backbone.odd"].isnan()


def test_checkpoint_of_another_network_is_refused(people: Path, tmp_path: Path) -> None:
    pretrain(Tiny(), f"folder:{people}", output_dir=tmp_path, **JOB)
    with pytest.raises(
        CheckpointError, match=r"last\.pt does not fit this run: .*backbone\.layer\.weight.*--overwrite"
    ):
        pretrain(Tiny(width=9), f"folder:{people}", output_dir=tmp_path, **JOB)


SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[1])
import reidzoo, test_diverged
from reidzoo.errors import DivergedError

rank, out = int(os.environ["RANK"]), sys.argv[3]
job = {**test_diverged.JOB, "batch_size": 6, "shard_optimizer": True}
try:
    reidzoo.pretrain(test_diverged.Tiny(nan_at=3 if rank else 0), sys.argv[2], output_dir=out, **job)
except DivergedError as e:
    open(f"{out}.{rank}", "w").write(str(e))
"""


def test_nan_on_one_rank_stops_both(people: Path, tmp_path: Path, warm_python: str) -> None:
    script, out = tmp_path / "job.py", tmp_path / "run"
    script.write_text(SCRIPT)
    torchrun = [warm_python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [*torchrun, str(script), str(Path(__file__).parent), f"folder:{people}", str(out)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        # DDP averages gradients: from step 4 on it is everybody's NaN. It is the first that is named.
        assert "the loss is nan at step 3." in Path(f"{out}.{rank}").read_text()
    assert len(load(RunFolder(out).failed)["optimizer"]["state"]) > 4
