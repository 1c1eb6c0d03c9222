"""Names, aliases and facts; no torch needed."""

from __future__ import annotations

import csv
import subprocess
import sys
from importlib.resources import files

import pytest

import reidzoo
from reidzoo.errors import ConfigError, UnknownModelError


def test_listing_needs_no_torch():
    code = (
        "import sys, reidzoo\n"
        "assert len(reidzoo.list_models()) == 32\n"
        "assert reidzoo.model_info('ResNet50_IBN').results\n"
        "heavy = {'torch', 'timm', 'torchvision', 'faiss', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_32_names_and_their_order(manifest):
    names = reidzoo.list_models()
    assert sorted(names) == sorted(manifest["models"])
    assert names.index("resnet18") < names.index("resnet101")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"pattern": "resnet*_ibn"}, ["resnet18_ibn", "resnet50_ibn", "resnet101_ibn", "resnet152_ibn"]),
        ({"pattern": "VIT_*"}, ["vit_base", "vit_small", "vit_tiny"]),
        ({"family": "swin"}, ["swin_base", "swin_small", "swin_tiny"]),
        ({"pattern": "*_base", "tag": "transformer"}, ["swin_base", "vit_base"]),
        ({"pattern": "alexnet"}, []),
    ],
)
def test_list_models_filters(query, expected):
    assert reidzoo.list_models(**query) == expected


def test_unknown_family_or_tag_is_an_error():
    with pytest.raises(ConfigError, match="'convnext'"):
        reidzoo.list_models(family="convnet")
    with pytest.raises(ConfigError, match="'mobile'"):
        reidzoo.list_models(tag="mobil")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("ResNet50_IBN", "resnet50_ibn"),
        ("EdgeNext_XSmall", "edgenext_x_small"),
        ("edgenext_xsmall.PTH", "edgenext_x_small"),
        ("VOLO_D1.pth", "volo_d1"),
        ("GhostNet 0.5x", "ghostnet_0_5"),
        ("RepViT-M1.5", "repvit_m1_5"),
        ("VIT_SMALL", "vit_small"),
    ],
)
def test_aliases(alias, name):
    assert reidzoo.model_info(alias).name == name


def test_unknown_name_names_the_closest():
    with pytest.raises(UnknownModelError, match="resnet50_ibn") as e:
        reidzoo.model_info("resnet50ibn")
    assert isinstance(e.value, KeyError)


def test_rows_agree_with_the_published_table():
    text = files("reidzoo.models").joinpath("reidzoo_results.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    specs = {s.published_name: s for s in map(reidzoo.model_info, reidzoo.list_models())}
    assert {r["model"] for r in rows} == set(specs)
    for row in rows:
        spec = specs[row["model"]]
        if row["method"] != "transreid":
            continue
        assert spec.flops_g == float(row["flops_g"])
        # The published numbers of the ViTs count a 1000-way linear layer that no checkpoint has.
        extra = 1000 * (spec.embed_dim + 1) / 1e6 if spec.family == "vit" else 0
        assert spec.params_m + extra == pytest.approx(float(row["params_m"]), abs=0.0101)
    results = reidzoo.model_info("resnet50_ibn").results
    assert [(r.method, r.market_map) for r in results] == [("mgn", 93.3), ("transreid", 93.7)]


def test_parameters_and_widths(manifest):
    for name, expected in manifest["models"].items():
        spec = reidzoo.model_info(name)
        assert spec.embed_dim == expected["embed_dim"]
        assert spec.params_m == pytest.approx(expected["num_params"] / 1e6, abs=0.005)
        # Batch norm decides about the prefix in the official files.
        assert ("batchnorm" in spec.tags) == (expected["checkpoint_prefix"] == "module.backbone.")


def test_published_finetuning_settings():
    hints = {(n, h.dataset): h for n in reidzoo.list_models() for h in reidzoo.model_info(n).finetuning}
    assert len(hints) == 64
    assert hints["resnet50", "market1501"].lr == pytest.approx(3.2e-3)
    assert hints["vit_base", "msmt17"].lr == pytest.approx(2.4e-3)
    odd = {key for key, h in hints.items() if h.lr != pytest.approx(4e-4 * h.batch_size / 64)}
    assert odd == {("convnext_base", "market1501"), ("swin_base", "msmt17")}
    assert [key for key, h in hints.items() if h.warmup_epochs != 20] == [("ghostnet_0_5", "market1501")]
