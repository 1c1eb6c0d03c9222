"""Fine-tuning settings: what the authors' configuration files say, and the results that they were published with.

Names are ``system/data/model``. What a system shares over all its files is the default of its method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reidzoo.models import model_info
from reidzoo.training.recipes import layumi
from reidzoo.training.recipes._recipe import Recipe, Target
from reidzoo.training.recipes._tables import rows

_COLUMNS = {"market1501": "market", "msmt17": "msmt"}  # of the published tables

# Of `cion_transreid.csv`: column, setting, and how it is read. The other columns are what the method always does
# (label_smoothing off, triplet_margin soft, one weight decay), or of its files (the checkpoint's name, when to save).
_FIELDS = {
    "lr": ("base_lr", float),
    "batch_size": ("batch_size", int),
    "epochs": ("epochs", int),
    "warmup_epochs": ("warmup_epochs", int),
    "weight_decay": ("weight_decay", float),
    "bias_lr_factor": ("bias_lr_factor", float),
    "num_instances": ("num_instances", int),
    "eval_every": ("eval_period", int),
}

_MGN_MODELS = ("resnet50", "resnet101", "resnet152", "resnet50_ibn", "resnet101_ibn", "resnet152_ibn")

# (height, width) of TransReID-SSL's files; all else is TransReID's default setting.
_SSL_SIZES = {"vit_small": (256, 128), "vit_small_ics": (256, 128), "vit_base_ics": (384, 128)}

# (height, width) of PASS' rows, by what their names end in.
_PASS_SIZES = {"": (256, 128), "_384": (384, 128)}

# TransReID's README: data set, (mAP, Rank-1) of the plain ViT-B and of the whole method with overlapping patches.
_TRANSREID = {
    "market1501": ((0.871, 0.946), (0.890, 0.951)),
    "msmt17": ((0.618, 0.818), (0.678, 0.853)),
    "dukemtmc": ((0.796, 0.890), (0.822, 0.907)),
}
_TRANSREID_OPTIONS = {"jpm": True, "sie": 3.0, "stride": 12}


def recipes() -> Iterator[Recipe]:
    """Yield all recipes of `reidzoo.finetune`."""
    yield from _cion()
    yield from _mgn()
    yield from _transreid()
    yield from _transreid_ssl()
    yield from _pass()
    yield from layumi.recipes()


def _cion() -> Iterator[Recipe]:
    for row in rows("cion_transreid.csv"):
        settings: dict[str, Any] = {name: read(row[column]) for name, (column, read) in _FIELDS.items()}
        settings["img_size"] = (int(row["height"]), int(row["width"]))
        file = f"configs/{row['dataset'].removesuffix('1501')}/{row['config']}.yml"
        source = f"CION_ReIDZoo, CION_Finetune/TransReID, {file}: one GPU, fp16"
        yield _recipe("cion", row["dataset"], row["model_name"], "transreid", settings, source)


def _mgn() -> Iterator[Recipe]:
    source = "CION_ReIDZoo, CION_Finetune/FastReID, configs/CMDM: four GPUs with 16 images each, fp32"
    for data in _COLUMNS:
        for model in _MGN_MODELS:
            yield _recipe("mgn", data, model, "mgn", {}, source)


def _transreid() -> Iterator[Recipe]:
    model = "timm/vit_base_patch16_224.orig_in21k_ft_in1k"
    common: dict[str, Any] = {"lr": 8e-3, "warmup_epochs": 5, "lr_ahead": 1, "drop_path": 0.1}
    source = (
        "TransReID, configs: one GPU, fp16. It resamples ImageNet's positions bilinearly, as `finetune` does with a "
        "network of create_model(MODEL, pretrained=True, img_size=224); one built for another size has had timm's way"
    )
    for data, (plain, whole) in _TRANSREID.items():
        for name, options, published in (("vit_base", {}, plain), ("vit_base_jpm_sie", _TRANSREID_OPTIONS, whole)):
            target = Target(*published)
            yield Recipe(
                f"transreid/{data}/{name}", "transreid", model, common | options, 1, "code", source, data, target
            )


def _transreid_ssl() -> Iterator[Recipe]:
    for data in _COLUMNS:
        for model, size in _SSL_SIZES.items():
            source = "TransReID-SSL, transreid_pytorch: one GPU, fp16; the results are those it reproduced"
            yield _recipe(
                "transreid_ssl",
                data,
                f"transreid_ssl_{model}",
                "transreid",
                {"img_size": size, "drop_path": 0.1},
                source,
            )


def _pass() -> Iterator[Recipe]:
    source = (
        "PASS-reID, PASS_transreid: TransReID-SSL's settings and its own defaults, four necks and features side by "
        "side, for all rows (the README does not say the settings of each); one GPU, fp16"
    )
    for data in _COLUMNS:
        for model in ("pass_vit_small", "pass_vit_base"):
            for end, size in _PASS_SIZES.items():
                settings = {"img_size": size, "drop_path": 0.1, "multi_neck": True}
                yield _recipe("pass", data, model, "transreid", settings, source, end)


def _recipe(
    system: str, data: str, model: str, method: str, settings: Mapping[str, Any], source: str, end: str = ""
) -> Recipe:
    name = f"{system}/{data}/{model.removeprefix(f'{system}_')}{end}"
    target = _target(model, method, data, settings.get("img_size"))
    return Recipe(name, method, model, settings, 1, "code", source, data, target)


def _target(model: str, method: str, data: str, size: tuple[int, int] | None) -> Target:
    """The result of `model` in the published tables, of images of `size` where there are several."""
    column = _COLUMNS[data]
    (result,) = (r for r in model_info(model).results if r.method == method and size in (None, r.img_size))
    return Target(*(round(getattr(result, f"{column}_{metric}") / 100, 4) for metric in ("map", "r1")))
