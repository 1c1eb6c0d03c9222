"""Recipes of fine-tuning: the published settings, the rates that come of them, and the results that they aim at."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import nn

import reidzoo
from reidzoo.cli.main import main
from reidzoo.data import load_dataset
from reidzoo.errors import ConfigError
from reidzoo.eval.tables import published_result
from reidzoo.training._distributed import World
from reidzoo.training._engine import Progress
from reidzoo.training.configs import TransReIDConfig
from reidzoo.training.methods.transreid import TransReID
from reidzoo.training.recipes._recipe import PROVENANCE, Recipe

TINY: dict[str, Any] = {
    "img_size": (32, 16), "epochs": 1, "batch_size": 12, "num_instances": 3, "device": "cpu", "num_workers": 0,
}  # fmt: skip
ALL = [recipe for recipe in map(reidzoo.recipes.get, reidzoo.recipes.list()) if recipe.stage == "finetune"]
CION = {recipe.name: recipe for recipe in ALL if recipe.name.startswith("cion/")}

# Written out of the specification's table of models (not of the file that the recipes are read from): learning rate,
# batch size and warm-up of the backbones, by data set.
PUBLISHED = {
    "market1501": [
        (2e-4, 32, 40, "ghostnet_0_5"),
        (4e-4, 64, 20, "ghostnet_1_0 ghostnet_1_3 edgenext_x_small edgenext_base repvit_m1_5 fastvit_s12 fastvit_sa12"),
        (4e-4, 64, 20, "fastvit_sa24 resnet101_ibn convnext_tiny swin_tiny swin_small swin_base"),
        (8e-4, 120, 20, "convnext_base"),
        (8e-4, 128, 20, "repvit_m0_9 resnet101 resnet152 resnet152_ibn volo_d3"),
        (1.6e-3, 256, 20, "edgenext_small repvit_m1_0 resnet18 resnet18_ibn convnext_small volo_d1 volo_d2"),
        (2.4e-3, 384, 20, "vit_base"),
        (3.2e-3, 512, 20, "resnet50 resnet50_ibn vit_tiny vit_small"),
    ],
    "msmt17": [
        (2e-4, 32, 20, "ghostnet_0_5 edgenext_x_small resnet18 resnet18_ibn"),
        (2e-4, 64, 20, "swin_base"),
        (4e-4, 64, 20, "ghostnet_1_0 ghostnet_1_3 edgenext_small edgenext_base repvit_m0_9 repvit_m1_0 repvit_m1_5"),
        (4e-4, 64, 20, "fastvit_s12 fastvit_sa12 fastvit_sa24 resnet50 resnet50_ibn convnext_tiny volo_d2 volo_d3"),
        (4e-4, 64, 20, "swin_tiny swin_small"),
        (8e-4, 128, 20, "resnet101 resnet152 resnet101_ibn resnet152_ibn volo_d1"),
        (1.6e-3, 256, 20, "convnext_small convnext_base"),
        (2.4e-3, 384, 20, "vit_base"),
        (3.2e-3, 512, 20, "vit_tiny vit_small"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_every_recipe_is_valid(recipe: Recipe) -> None:
    recipe.info.config(**recipe.settings)
    system, data, model = recipe.name.split("/")
    assert data == recipe.data
    if not recipe.model.startswith("timm/"):
        assert reidzoo.model_info(recipe.model).name == recipe.model
        assert recipe.model in (model, f"{system}_{model.removesuffix('_384')}") or system == "layumi"
    assert recipe.provenance in PROVENANCE
    assert recipe.source
    assert recipe.published is not None
    assert 0.3 < recipe.published.mAP < recipe.published.rank1 < 1


def test_the_64_files_of_cion() -> None:
    """What the recipes say is what the specification's table of models says; and what `reidzoo info` does."""
    expected = {
        f"cion/{data}/{model}": (lr, batch, warmup)
        for data, lines in PUBLISHED.items()
        for lr, batch, warmup, models in lines
        for model in models.split()
    }
    found = {n: (r.settings["lr"], r.settings["batch_size"], r.settings["warmup_epochs"]) for n, r in CION.items()}
    assert len(expected) == 64
    assert found == expected
    for recipe in CION.values():
        config = TransReIDConfig(**recipe.settings)
        assert (config.epochs, config.img_size, config.num_instances) == (120, (256, 128), 4)
        assert (config.momentum, config.weight_decay, config.bias_lr_factor) == (0.9, 1e-4, 2.0)
        assert (config.label_smoothing, config.erasing, config.padding, config.neck_feature) == (0, 0.5, 10, "before")
        assert config.mean == config.std == (0.5, 0.5, 0.5)
        (hint,) = (h for h in reidzoo.model_info(recipe.model).finetuning if h.dataset == recipe.data)
        assert (config.lr, config.batch_size, config.warmup_epochs) == pytest.approx(
            (hint.lr, hint.batch_size, hint.warmup_epochs)
        )


def test_the_published_results() -> None:
    def of(name: str) -> tuple[float, float]:
        target = reidzoo.recipes.get(name).published
        assert target is not None
        return target.mAP, target.rank1

    assert of("cion/market1501/resnet50_ibn") == (0.937, 0.969)
    assert of("cion/msmt17/swin_base") == (0.767, 0.903)
    assert of("mgn/market1501/resnet50") == (0.923, 0.971)
    assert of("mgn/msmt17/resnet152_ibn") == (0.768, 0.908)
    assert of("transreid_ssl/msmt17/vit_base_ics") == (0.751, 0.896)
    assert of("transreid/dukemtmc/vit_base_jpm_sie") == (0.822, 0.907)
    assert len(reidzoo.recipes.list("mgn/*")) == 12
    assert len(reidzoo.recipes.list("transreid_ssl/*")) == 6
    assert of("pass/market1501/vit_small") == (0.922, 0.963)
    assert of("pass/market1501/vit_small_384") == (0.926, 0.968)
    assert of("pass/msmt17/vit_base") == (0.718, 0.882)
    assert of("pass/msmt17/vit_base_384") == (0.743, 0.897)
    assert len(reidzoo.recipes.list("pass/*")) == 8


def test_the_rows_of_layumi() -> None:
    """Each row is a recipe; what its command sets, the recipe does."""
    names = reidzoo.recipes.list("layumi/market1501/*")
    assert len(names) == 35
    timms = {*timm.list_models(), *timm.list_pretrained()}

    def settings(name: str) -> dict[str, Any]:
        return dict(reidzoo.recipes.get(f"layumi/market1501/{name}").settings)

    for name in names:
        recipe = reidzoo.recipes.get(name)
        command = recipe.source.partition("README: ")[2]
        assert recipe.model == "resnet50_ibn" or recipe.model.removeprefix("timm/") in timms
        assert (recipe.settings.get("unlabelled") == "dgmarket") == ("--DG" in command)
        assert (recipe.method == "pcb") == ("--PCB" in command)
        assert ("each identity is left out" in command) == ("--train_all" not in command.partition(" (")[0])
    tricks = {"warmup_epochs": 5, "last_stride": 1, "erasing": 0.5, "batch_size": 8, "lr": 0.02}
    assert settings("resnet50") == {}
    assert settings("resnet50_ibn_usam") == {"last_stride": 2, "usam": True}
    assert settings("resnet50_adv_defense") == {"adversarial": 0.1, "adversarial_every": 40, "warmup_epochs": 10}
    assert settings("convnext") == {"pool": "average", "drop_path": 0.2}
    assert settings("pcb_dg") == {"lr": 0.02, "unlabelled": "dgmarket", "compat": "layumi"}
    table = {**tricks, "batch_size": 32, "lr": 0.08, "epochs": 100}
    assert settings("ce_instance") == {**table, "losses": "instance", "instance_scale": 64}
    assert settings("ce_contrast_sphere") == {**table, "losses": "contrastive,sphereface", "proxies": "frozen"}
    assert settings("resnet50_all_tricks_circle") == {**tricks, "losses": "circle"}
    long = {**tricks, "batch_size": 24, "lr": 0.062, "epochs": 133, "losses": "contrastive,triplet_mined"}
    assert settings("ce_contrast_triplet_long") == long
    assert settings("swin_224x224") == {"img_size": (224, 224), "drop_path": 0.2}
    pcb = reidzoo.recipes.get("layumi/market1501/pcb")
    assert (pcb.method, pcb.model, dict(pcb.settings)) == ("pcb", "timm/resnet50.tv_in1k", {"lr": 0.02})
    assert pcb.published is not None
    assert (pcb.published.mAP, pcb.published.rank1) == (0.7747, 0.9264)
    assert "trapezoid" in pcb.published.how


def test_transreid_ssl(people: Path) -> None:
    recipe = reidzoo.recipes.get("transreid_ssl/market1501/vit_base_ics")
    config = TransReIDConfig(**recipe.settings)
    assert (config.lr, config.batch_size, config.warmup_epochs, config.img_size) == (4e-4, 64, 20, (384, 128))
    model = reidzoo.create_model("timm/test_vit")
    small = TransReIDConfig(
        img_size=(160, 160), batch_size=12, num_instances=3, device="cpu", drop_path=config.drop_path
    )
    method = TransReID(model, load_dataset(f"folder:{people}"), small, World(0, 1, torch.device("cpu")))
    rates = [m.drop_prob for m in method.network.modules() if isinstance(m, DropPath)]
    assert max(rates) == 0.1


class _Two(nn.Module):
    """A backbone of two parameters, one of which is called a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.embed_dim, self.pretrained_cfg = 4, {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (3, 256, 128)}


@pytest.mark.parametrize("name", CION)
def test_rates_of_all_cion_recipes(name: str, people: Path) -> None:
    """The optimiser's groups, epoch by epoch, against the specification's formula and its worked multiples."""
    recipe = CION[name]
    config = TransReIDConfig(**{**recipe.settings, "batch_size": 12, "num_instances": 3, "device": "cpu"})
    method = TransReID(_Two(), load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))
    optimizer = method.optimizer
    assert isinstance(optimizer, torch.optim.SGD)
    names = {id(p): n for n, p in method.network.named_parameters()}
    lr, warmup = recipe.settings["lr"], recipe.settings["warmup_epochs"]
    for t in range(120):
        method.set_rates(Progress(t, 0, 10, 10 * t))
        for group in optimizer.param_groups:
            (bias,) = {"bias" in names[id(p)] for p in group["params"]}
            peak, start, floor = lr * (2 if bias else 1), 0.01 * lr, 0.002 * lr
            climb = start + t * (peak - start) / warmup
            fall = floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * t / 120))
            assert group["lr"] == pytest.approx(climb if t < warmup else fall, rel=1e-12)
            assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (1e-4, 0.9, False)
    if warmup == 20:
        worked = {0: 0.0100, 1: 0.0595, 10: 0.5050, 19: 0.9505, 20: 0.9331, 60: 0.5010, 119: 0.00217}
        for t, multiple in worked.items():
            method.set_rates(Progress(t, 0, 10, 10 * t))
            (plain,) = (g["lr"] for g in optimizer.param_groups if g["base_lr"] == lr)
            assert plain / lr == pytest.approx(multiple, abs=6e-5)


def test_rates_of_transreid_are_an_epoch_ahead(people: Path) -> None:
    """Its release trains epoch e, counted from 1, with lr(e), and so the last one at the floor."""
    recipes = [recipe for recipe in ALL if recipe.name.startswith("transreid/")]
    assert len(recipes) == 6
    assert all(r.settings["lr_ahead"] == 1 for r in recipes)
    settings = dict(recipes[0].settings)
    for warmup, worked in (
        (20, {1: 0.0595, 10: 0.5050, 19: 0.9505, 20: 0.9331, 60: 0.5010, 119: 0.00217, 120: 0.0020}),
        (5, {1: 0.01 + 0.99 / 5, 4: 0.01 + 0.99 * 4 / 5, 5: 0.002 + 0.499 * (1 + math.cos(math.pi / 24)), 120: 0.002}),
    ):
        tiny = {"batch_size": 12, "num_instances": 3, "device": "cpu", "drop_path": -1.0, "warmup_epochs": warmup}
        config = TransReIDConfig(**{**settings, **tiny})
        method = TransReID(_Two(), load_dataset(f"folder:{people}"), config, World(0, 1, torch.device("cpu")))
        for e, multiple in worked.items():
            method.set_rates(Progress(e - 1, 0, 10, 0))
            (plain,) = (g["lr"] for g in method.optimizer.param_groups if g["base_lr"] == 8e-3)
            assert plain / 8e-3 == pytest.approx(multiple, abs=6e-5), e


def test_a_run_takes_a_recipe_and_evaluation_the_result_it_aims_at(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, other = "cion/market1501/ghostnet_0_5", load_dataset(f"folder:{people}")
    root = reidzoo.data.write_synthetic(tmp_path / "x", layout="market1501", identities=8, images=3, size=(32, 16))
    (root / "synthetic.json").unlink()  # from now on it passes for the real one
    data = f"market1501:{root}"
    market = load_dataset(data)
    result = reidzoo.finetune("timm/test_resnet", data, recipe=recipe, output_dir=tmp_path / "a", config=TINY, seed=4)
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert written["method"] == "transreid"
    assert (written["config"]["lr"], written["config"]["warmup_epochs"], written["config"]["seed"]) == (2e-4, 40, 4)

    words = ["finetune", "timm/test_resnet", data, "--output-dir", str(tmp_path / "b"), "--recipe", recipe]
    for name, value in {**TINY, "seed": 4}.items():
        words += [f"--{name.replace('_', '-')}", "x".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    assert main(words) == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text())["config"] == written["config"]
    assert "published  mAP 81.0, Rank-1 92.0 (recipe cion/market1501/ghostnet_0_5)" in capsys.readouterr().out

    # The model as it came from the run, and as it was read from its file.
    for model in (result.model, reidzoo.create_model(f"local-dir:{tmp_path / 'b'}")):
        known = published_result(model, market)
        assert known is not None
        assert (known.mAP, known.rank1) == (0.81, 0.92)
        assert known.how == f"fine-tuned on it (recipe {recipe})"
        assert published_result(model, other) is None
    # Trained without a recipe, on other data, or on drawn people, it aims at nothing any more.
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "synthetic.json").touch()
    drawn = replace(market, root=tmp_path / "drawn")
    for name, on, settings in (("c", market, {}), ("d", other, {"recipe": recipe}), ("e", drawn, {"recipe": recipe})):
        again = reidzoo.finetune(result.model, on, output_dir=tmp_path / name, **settings, **TINY)
        assert published_result(again.model, market) is None


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretraining, finetuning = "cion/vit_tiny", "cion/market1501/vit_tiny"
    with pytest.raises(ConfigError, match=r"for reidzoo pretrain, not for reidzoo finetune.*list '\*/vit_tiny'"):
        reidzoo.finetune("vit_tiny", "x", recipe=pretraining, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="for reidzoo finetune, not for reidzoo pretrain"):
        reidzoo.pretrain("vit_tiny", "x", recipe=finetuning, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="is of method 'transreid', not 'mgn'"):
        reidzoo.finetune("vit_tiny", "x", method="mgn", recipe=finetuning, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="both say everything"):
        reidzoo.finetune("vit_tiny", "x", recipe=finetuning, config=TransReIDConfig(), output_dir=tmp_path)
    assert main(["finetune", "vit_tiny", "x", "--output-dir", str(tmp_path), "--recipe", pretraining]) == 2
    assert "reidzoo recipes list '*/vit_tiny'" in capsys.readouterr().err


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list", "*/market1501/vit_base*"]) == 0
    line = next(row for row in capsys.readouterr().out.splitlines() if row.startswith("cion/market1501/vit_base"))
    assert line.split() == [
        "cion/market1501/vit_base", "transreid", "1", "code", "93.1", "96.9", "lr=0.0024", "batch_size=384",
        "eval_every=20",
    ]  # fmt: skip
    assert main(["recipes", "show", "cion/market1501/resnet50_ibn"]) == 0
    out = capsys.readouterr().out
    assert "published on market1501: mAP 93.7, Rank-1 96.9" in out
    command = "reidzoo finetune resnet50_ibn market1501 --pretrained --recipe cion/market1501/resnet50_ibn"
    assert f"{command} --output-dir DIR" in out
