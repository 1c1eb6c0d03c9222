"""Two ranks of half the batch are one rank of the whole batch."""

from __future__ import annotations

import json
import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
import torch

from reidzoo import pretrain
from reidzoo.errors import ConfigError, TrainingError
from reidzoo.training import _checkpoint
from reidzoo.training._checkpoint import RunFolder, load, save
from reidzoo.training._distributed import launch
from reidzoo.training._run import _same_images_per_step
from reidzoo.training._tracking import read_history
from reidzoo.training.configs import CIONConfig
from reidzoo.training.losses import PAIRWISE, CenterLoss, IdentityDistillationLoss, ProxyLoss

JOB: dict[str, Any] = {
    "img_size": (64, 32),
    "seed": 3,
    "device": "cpu",
    "epochs": 2,
    "num_instances": ((0, 2), (1, 4)),
    "local_crops": 2,
    "local_size": (32, 32),
    "output_dim": 64,
    "hidden_dim": 32,
    "warmup_epochs": 1,
    "lr": 0.01,
    "num_workers": 0,
}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
MODEL = "timm/test_convnext"  # LayerNorm: BatchNorm's statistics would be those of half the batch


@pytest.fixture(autouse=True, scope="module")
def ranks_have_torch(warm_python: str) -> Iterator[None]:
    """Ranks that are spawned start as ``warm_python.py`` says."""
    resource_tracker.ensure_running()
    multiprocessing.set_executable(warm_python)
    yield
    multiprocessing.set_executable(sys.executable)


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor([row["loss"] for row in read_history(RunFolder(folder).metrics, "step")], dtype=torch.float64)


@pytest.fixture(scope="module")
def one_rank(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "run"
    pretrain(MODEL, f"folder:{people}", output_dir=out, batch_size=24, **JOB)
    return out


@pytest.fixture(scope="module")
def two_ranks(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    result = pretrain(MODEL, f"folder:{people}", output_dir=out, batch_size=12, devices=2, **JOB)
    assert len(result.history) == 2
    assert result.model(torch.zeros(1, 3, 64, 32)).shape == (1, result.model.embed_dim)
    return out


def test_two_ranks_are_one(one_rank: Path, two_ranks: Path) -> None:
    one, two = losses(one_rank), losses(two_ranks)
    assert len(one) == len(two) > 4
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    assert one.std() > 1e-3, "a constant curve would show nothing"


def test_two_machines_with_sharded_optimizer_state(
    two_ranks: Path, people: Path, tmp_path: Path, warm_python: str
) -> None:
    """Two torchruns that find each other by an address, as on two machines; each rank has half of AdamW's state."""
    script = tmp_path / "job.py"
    script.write_text(
        "import json, sys, reidzoo\n"
        "model, data, out, config = sys.argv[1:]\n"
        "reidzoo.pretrain(model, data, output_dir=out, config=json.loads(config))\n"
    )
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    torchrun = [warm_python, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-id=x"]
    torchrun += ["--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    job = json.dumps({**JOB, "batch_size": 12, "shard_optimizer": True})
    arguments = [*torchrun, str(script), MODEL, f"folder:{people}", str(tmp_path / "run"), job]
    machines = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for machine in machines:
        _, said = machine.communicate(timeout=300)
        assert machine.returncode == 0, said
    a, b = (load(RunFolder(out).last) for out in (two_ranks, tmp_path / "run"))
    assert len(a["optimizer"]["state"]) == len(b["optimizer"]["state"]) > 20
    for key, tensor in flat(a).items():
        assert torch.equal(tensor, flat(b)[key]), key


def flat(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their paths."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    parts = state.items() if isinstance(state, dict) else ()
    return {k: v for name, part in parts for k, v in flat(part, f"{prefix}/{name}").items()}


def test_another_number_of_ranks_goes_on(
    one_rank: Path, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run of one rank, stopped after an epoch, goes on with the same settings on two, which share its batches."""
    part = tmp_path / "part"

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(MODEL, f"folder:{people}", output_dir=part, batch_size=24, **JOB)
    pretrain(MODEL, f"folder:{people}", output_dir=part, batch_size=24, devices=2, shard_optimizer=True, **JOB)
    torch.testing.assert_close(losses(one_rank), losses(part), atol=1e-5, rtol=0)
    said = capfd.readouterr().err
    assert "ranks changes from 1 to 2, and the images per step stay 24 (12 on each rank)" in said
    config = json.loads(RunFolder(part).config.read_text())
    assert (config["images_per_step"], config["ranks"], config["config"]["batch_size"]) == (24, 2, 24)


def test_any_number_of_ranks_that_can_shares_the_images() -> None:
    config, before = CIONConfig(), {"images_per_step": 960, "config": {"batch_size": 120}}
    assert [_same_images_per_step(config, before, n).batch_size for n in (8, 4, 5, 20)] == [120, 240, 192, 48]
    with pytest.raises(ConfigError, match=r"960 is not a multiple of 7\. .* can: 1, 2, 4, 5, 8, 10\.$"):
        _same_images_per_step(config, before, 7)
    with pytest.raises(ConfigError, match=r"batch_size 320 is not a multiple of num_instances 6"):
        _same_images_per_step(config, before, 3)
    own = CIONConfig(batch_size=240)  # the run folder compares the images per step that this makes
    assert _same_images_per_step(own, before, 4) is own
    assert _same_images_per_step(own, before, 2) is own


def test_another_global_batch_is_refused(one_rank: Path, people: Path) -> None:
    with pytest.raises(TrainingError, match="images_per_step: 24 -> 12"):
        pretrain(MODEL, f"folder:{people}", output_dir=one_rank, batch_size=12, **JOB)


def test_an_error_on_the_ranks_reaches_the_caller(people: Path, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match=r"^rank [01] of 2 stopped: UnknownModelError: There is no timm model 'no_such'"
    ):
        pretrain("timm/no_such", f"folder:{people}", output_dir=tmp_path / "x", batch_size=12, devices=2, **JOB)


def test_a_rank_that_ends_before_it_can_say_why() -> None:
    """As of a script that calls this outside ``if __name__ == "__main__":``."""
    with pytest.raises(TrainingError, match=r"^rank 0 of 1 stopped: it ended before the training.*`if __name__ == "):
        launch(sys.exit, 1, 1)


def test_a_module_of_ones_own_goes_by_torchrun(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"this is a Flatten.*torchrun"):
        pretrain(torch.nn.Flatten(), f"folder:{people}", output_dir=tmp_path / "x", batch_size=12, devices=2, **JOB)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_said(people: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sees no GPU"):
        pretrain(MODEL, f"folder:{people}", output_dir=tmp_path / "x", batch_size=12, **{**JOB, "device": "cuda"})


COLLECTIVES = """
import sys
import torch
import torch.distributed as dist
from reidzoo.training._distributed import gather_with_grad, share_buffers
from reidzoo.training.losses import PAIRWISE, CenterLoss, IdentityDistillationLoss, ProxyLoss

dist.init_process_group("gloo")
rank = dist.get_rank()
everything = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
pids = torch.arange(4).repeat_interleave(3)[rank * 6 : rank * 6 + 6]
mine = everything[rank * 6 : rank * 6 + 6].clone().requires_grad_()
centers = CenterLoss(4, 5)
torch.manual_seed(1)
proxies = ProxyLoss("arcface", 4, 5)
compared = {name: loss(mine, pids) for name, loss in {**PAIRWISE, "center": centers, "proxies": proxies}.items()}
grads = {name: torch.autograd.grad(loss, mine, retain_graph=True)[0] for name, loss in compared.items()}
(of_proxies,) = torch.autograd.grad(compared["proxies"], proxies.weight)
criterion = IdentityDistillationLoss(5, 2)
criterion.update_center(mine.detach().float())
parts = {"loss": {name: loss.detach() for name, loss in compared.items()}, "grad": grads, "centers": centers.centers}
parts |= {"center": criterion.center, "pids": gather_with_grad(pids), "proxies": of_proxies}
norm = torch.nn.BatchNorm1d(5)
norm(mine.detach().float())
share_buffers(norm)
parts["statistics"] = norm.running_mean
torch.save(parts, f"{sys.argv[1]}/{rank}.pt")
dist.destroy_process_group()
"""


def test_losses_and_centres_see_all_ranks(tmp_path: Path, warm_python: str) -> None:
    script = tmp_path / "collectives.py"
    script.write_text(COLLECTIVES)
    subprocess.run([warm_python, *TORCHRUN, str(script), str(tmp_path)], check=True, capture_output=True, timeout=300)
    parts = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]

    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=g, dtype=torch.float64, requires_grad=True)
    centers = CenterLoss(4, 5)
    torch.manual_seed(1)
    proxies = ProxyLoss("arcface", 4, 5)
    for name, loss_of in {**PAIRWISE, "center": centers, "proxies": proxies}.items():
        loss = loss_of(x, torch.arange(4).repeat_interleave(3))
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        for rank in parts:
            torch.testing.assert_close(rank["loss"][name], loss.detach(), msg=name)
        # DDP divides by the number of ranks when it averages.
        torch.testing.assert_close(torch.cat([p["grad"][name] for p in parts]) / 2, grad, msg=name)
        assert grad.any(), name
    (of_proxies,) = torch.autograd.grad(loss, proxies.weight)
    for rank in parts:
        torch.testing.assert_close(rank["centers"], centers.centers)
        torch.testing.assert_close(rank["proxies"], of_proxies)  # whole on each rank: DDP does not see them
    criterion = IdentityDistillationLoss(5, 2)
    criterion.update_center(x.detach().float())
    torch.testing.assert_close(parts[0]["center"], criterion.center)
    for rank in parts:
        torch.testing.assert_close(rank["statistics"], 0.1 * x[:6].detach().float().mean(0))  # of the first rank
    assert torch.equal(parts[1]["pids"], torch.arange(4).repeat_interleave(3))
