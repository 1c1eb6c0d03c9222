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
        "assert len(reidzoo.list_models()) == 46\n"
        "assert reidzoo.model_info('ResNet50_IBN').results\n"
        "heavy = {'torch', 'timm', 'torchvision', 'faiss', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_the_32_names_and_their_order(manifest):
    names = reidzoo.list_models(tag="reidzoo")
    assert sorted(names) == sorted(manifest["models"])
    assert names.index("resnet18") < names.index("resnet101")
    assert [n for n in reidzoo.list_models() if n in names] == names


OTHERS = {
    "transreid_ssl": {"transreid_ssl_vit_small", "transreid_ssl_vit_small_ics", "transreid_ssl_vit_base_ics"},
    "pass": {"pass_vit_small", "pass_vit_base"},
    "luperson": {"luperson_resnet50", "luperson_resnet101", "luperson_resnet152"},
    "luperson_nl": {"luperson_nl_resnet50", "luperson_nl_resnet101", "luperson_nl_resnet152"},
    "solider": {"solider_swin_tiny", "solider_swin_small", "solider_swin_base"},
}


def test_the_other_releases(manifest):
    for release, names in OTHERS.items():
        assert set(reidzoo.list_models(tag=release)) == names
    assert set(reidzoo.list_models()) == set(manifest["models"]).union(*OTHERS.values())
    for spec in map(reidzoo.model_info, reidzoo.list_models()):
        assert [t for t in spec.tags if t in {"reidzoo", *OTHERS}] == [spec.release]
        assert spec.license == ("reidzoo" if spec.release == "reidzoo" else "luperson")
        assert spec.official_stem or spec.release != "reidzoo"


def test_statistics_of_the_images():
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    other = {
        "luperson": ((0.3525, 0.3106, 0.3140), (0.2660, 0.2522, 0.2505)),
        "luperson_nl": ((0.3452, 0.3070, 0.3114), (0.2633, 0.2500, 0.2480)),
    }
    for spec in map(reidzoo.model_info, reidzoo.list_models()):
        assert (spec.mean, spec.std) == other.get(spec.release, imagenet), spec.name


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"pattern": "resnet*_ibn"}, ["resnet18_ibn", "resnet50_ibn", "resnet101_ibn", "resnet152_ibn"]),
        ({"pattern": "VIT_*"}, ["vit_base", "vit_small", "vit_tiny"]),
        ({"family": "swin"}, ["swin_base", "swin_small", "swin_tiny"]),
        ({"pattern": "*_base", "tag": "transformer"}, ["pass_vit_base", "solider_swin_base", "swin_base", "vit_base"]),
        (
            {"tag": "ibn", "family": "vit", "pattern": "transreid*"},
            ["transreid_ssl_vit_base_ics", "transreid_ssl_vit_small_ics"],
        ),
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
        ("vit_base_ics_cfs_lup.pth", "transreid_ssl_vit_base_ics"),
        ("pass_vit_small_full", "pass_vit_small"),
        ("lup_moco_r50.pth", "luperson_resnet50"),
        ("SOLIDER Swin-T", "solider_swin_tiny"),
    ],
)
def test_aliases(alias, name):
    assert reidzoo.model_info(alias).name == name


def test_a_release_without_file_names_adds_no_alias():
    for alias in ("", ".pth"):
        with pytest.raises(UnknownModelError):
            reidzoo.model_info(alias)


def test_unknown_name_names_the_closest():
    with pytest.raises(UnknownModelError, match="resnet50_ibn") as e:
        reidzoo.model_info("resnet50ibn")
    assert isinstance(e.value, KeyError)


def published(table):
    text = files("reidzoo.models").joinpath(table).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def test_rows_agree_with_the_published_table():
    rows = published("reidzoo_results.csv")
    specs = {s.published_name: s for s in map(reidzoo.model_info, reidzoo.list_models(tag="reidzoo"))}
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
    assert [(r.method, r.img_size, r.market_map) for r in results] == [
        ("mgn", (384, 128), 93.3),
        ("transreid", (256, 128), 93.7),
    ]


def test_published_results_of_the_other_releases():
    rows = published("released_results.csv")
    names = {s.published_name: s.name for s in map(reidzoo.model_info, reidzoo.list_models())}
    assert {names[r["model"]] for r in rows} == OTHERS["transreid_ssl"] | OTHERS["pass"]
    results = reidzoo.model_info("pass_vit_small").results
    assert [(r.method, r.img_size, r.market_map, r.msmt_r1) for r in results] == [
        ("transreid", (256, 128), 92.2, 86.5),
        ("transreid", (384, 128), 92.6, 87.9),
        ("usl", (256, 128), 88.7, 67.0),
        ("uda", (256, 128), 90.2, 72.7),
    ]
    assert results[0].flops_g is None
    assert results[0].msmt_map_gain is None
    [base] = reidzoo.model_info("transreid_ssl_vit_base_ics").results
    assert (base.img_size, base.market_map, base.msmt_map) == ((384, 128), 93.1, 75.1)
    assert sum(len(reidzoo.model_info(n).results) for n in OTHERS["luperson"] | OTHERS["solider"]) == 0


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
