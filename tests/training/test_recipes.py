"""Recipes: each builds its method's config, says where it comes from, and reaches a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import reidzoo
from reidzoo.cli.main import main
from reidzoo.errors import ConfigError, UnknownRecipeError
from reidzoo.training.configs import CIONConfig
from reidzoo.training.methods import PRETRAIN
from reidzoo.training.recipes._recipe import PROVENANCE, Recipe

TINY = {
    "img_size": (32, 16), "local_size": (16, 16), "local_crops": 0, "output_dim": 16, "hidden_dim": 8, "epochs": 1,
    "batch_size": 8, "device": "cpu", "num_workers": 0,
}  # fmt: skip


ALL = [recipe for recipe in map(reidzoo.recipes.get, reidzoo.recipes.list()) if recipe.stage == "pretrain"]


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_every_recipe_is_valid(recipe: Recipe) -> None:
    name = recipe.name
    config = PRETRAIN[recipe.method].config(**recipe.settings)
    assert name.startswith(f"{recipe.method}/")
    assert reidzoo.model_info(recipe.model).name == recipe.model
    assert recipe.provenance in PROVENANCE
    assert recipe.source
    if recipe.method == "cion":
        assert config.batch_size % 24 == 0  # whole groups for K = 2, 4, 6, 8


def test_only_what_was_published_is_said_to_be() -> None:
    """All 32 backbones have a recipe; of one alone the authors' settings are known."""
    cion = {r.name: r for r in ALL if r.method == "cion" and r.name != "cion/release"}
    assert {r.model for r in cion.values()} == set(reidzoo.list_models(tag="reidzoo"))
    assert {n for n, r in cion.items() if r.provenance != "reidzoo"} == {"cion/resnet50_ibn"}
    assert cion["cion/resnet50_ibn"].settings == {"batch_size": 120, "local_crops": 8}
    assert cion["cion/resnet50_ibn"].gpus == 8


def test_transreid_ssl() -> None:
    recipe = reidzoo.recipes.get("dino/transreid_ssl_vit_small_ics")
    config = PRETRAIN[recipe.method].config(**recipe.settings)
    assert (config.batch_size, config.epochs, config.warmup_epochs, config.lr) == (64, 100, 10, 5e-4)
    assert (config.weight_decay, config.weight_decay_end, config.min_lr) == (0.04, 0.4, 1e-6)
    assert (config.global_scale, config.local_scale, config.local_crops) == ((0.4, 1.0), (0.05, 0.4), 8)
    assert config.crop_ratio == pytest.approx((3 / 4, 4 / 3), abs=1e-4)
    assert (config.output_dim, config.teacher_temp, config.drop_path, config.clip_grad) == (65536, 0.04, 0.1, 3.0)


def test_the_release_has_its_switches_thrown_and_nothing_else() -> None:
    fixed, release = CIONConfig(), CIONConfig(**reidzoo.recipes.get("cion/release").settings)
    changed = {n for n, v in vars(release).items() if v != getattr(fixed, n)}
    assert changed == {
        "remainder", "short_ids", "rank_slices", "schedule", "teacher_drop_path", "clip_scaled_grads", "precision",
        "keep_every",
    }  # fmt: skip


def test_a_run_takes_a_recipe_and_its_method(people: Path, tmp_path: Path) -> None:
    data = f"folder:{people}"
    recipe = "dino/solider_swin_tiny"
    reidzoo.pretrain("timm/test_vit", data, recipe=recipe, output_dir=tmp_path / "a", config=TINY, seed=4)
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert written["method"] == "dino"
    assert written["config"]["global_scale"] == [0.8, 1.0]  # the recipe's
    assert (written["config"]["batch_size"], written["config"]["seed"]) == (8, 4)  # ours

    words = ["pretrain", "timm/test_vit", data, "--output-dir", str(tmp_path / "b"), "--recipe", recipe, "--seed", "4"]
    for name, value in TINY.items():
        text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        words += [f"--{name.replace('_', '-')}", text]
    assert main(words) == 0
    assert json.loads((tmp_path / "b" / "config.json").read_text())["config"] == written["config"]


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownRecipeError, match="Did you mean 'cion/resnet50_ibn'"):
        reidzoo.recipes.get("cion/resnet50-ibn")
    with pytest.raises(ConfigError, match=r"is of method 'dino', not 'cion'"):
        reidzoo.pretrain("vit_tiny", "x", method="cion", recipe="dino/solider_swin_base", output_dir=tmp_path)
    with pytest.raises(ConfigError, match="both say everything"):
        reidzoo.pretrain("vit_tiny", "x", recipe="cion/vit_tiny", config=CIONConfig(), output_dir=tmp_path)
    assert main(["pretrain", "vit_tiny", "x", "--output-dir", str(tmp_path), "--recipe", "cion/no"]) == 2
    assert "There is no recipe 'cion/no'" in capsys.readouterr().err


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list", "cion/vit*"]) == 0
    out = capsys.readouterr().out
    assert "cion/vit_base" in out
    assert "cion/resnet18" not in out
    assert main(["recipes", "show", "cion/release"]) == 0
    out = capsys.readouterr().out
    assert "reidzoo pretrain resnet50_ibn DATA --recipe cion/release --devices 8 --output-dir DIR" in out
    assert any(line.split() == ["rank_slices", "True", "recipe"] for line in out.splitlines())
    assert main(["recipes", "list", "nothing*"]) == 1
