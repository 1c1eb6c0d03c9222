"""The rows of the tables in the README of Person_reID_baseline_pytorch, whose commands say the settings.

Where a run of reidzoo is another one than the release's, `_DIFFERENCES` says how.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from reidzoo.training.recipes._recipe import Recipe, Target
from reidzoo.training.recipes._tables import rows

# What a flag of the command sets, and how its value is read.
_FLAGS: dict[str, tuple[str, Any]] = {
    "--batchsize": ("batch_size", int),
    "--batch": ("batch_size", int),
    "--total": ("epochs", int),
    "--lr": ("lr", float),
    "--warm_epoch": ("warmup_epochs", float),
    "--warm": ("warmup_epochs", float),
    "--erasing_p": ("erasing", float),
    "--stride": ("last_stride", int),
    "--ins_gamma": ("instance_scale", float),
    "--adv": ("adversarial", float),
    "--aiter": ("adversarial_every", int),
}
# What a flag without a value sets.
_SWITCHES: dict[str, dict[str, Any]] = {
    "--fp16": {"precision": "fp16"},
    "--train_all": {},
    "--PCB": {},
    "--DG": {"unlabelled": "dgmarket"},
    "--usam": {"usam": True},
    "--ibn": {"last_stride": 2},
    "--use_dense": {"pool": "average"},
    "--use_convnext": {"pool": "average", "drop_path": 0.2},
    "--use_dino": {"pool": "average"},
    "--use_efficient": {"drop_path": 0.2},
    "--use_hr": {},
    "--use_swin": {"img_size": (224, 224), "drop_path": 0.2},
    "--use_swinv2": {"drop_path": 0.2},
}
_LOSSES = {
    "--circle": "circle",
    "--triplet": "triplet_mined",
    "--contrast": "contrastive",
    "--lifted": "lifted",
    "--instance": "instance",
    "--sphere": "sphereface",
}
_TRUNKS = {
    "--ibn": "resnet50_ibn",
    "--use_dense": "timm/densenet121.tv_in1k",
    "--use_convnext": "timm/convnext_base",
    "--use_dino": "timm/vit_base_patch16_dinov3.lvd1689m",
    "--use_efficient": "timm/tf_efficientnet_b4.aa_in1k",
    "--use_hr": "timm/hrnet_w18",
    "--use_swin": "timm/swin_base_patch4_window7_224",
    "--use_swinv2": "timm/swinv2_base_window8_256",
}
_DIFFERENCES = {
    "--ibn": "its trunk had ImageNet's weights, --pretrained are CION's",
    "--use_efficient": "it is efficientnet_pytorch's network, which pads as for 380x380 pixels",
    "--adv": "changed features are divided by the length of the clean one, not each by its own",
}
_SPLIT = "without --train_all the first image of each identity is left out, here none is"
_HOW = "its mAP is by trapezoids: --ap trapezoid"


def recipes() -> Iterator[Recipe]:
    """Yield a recipe for each row."""
    for row in rows("layumi.csv"):
        words = shlex.split(row["train_command"])[2:]  # without `python train.py`
        trunk = next((_TRUNKS[word] for word in words if word in _TRUNKS), "timm/resnet50.tv_in1k")
        name = re.sub(r"[^a-z0-9]+", "_", row["method"].lower().replace("resnet-", "resnet")).strip("_")
        differences = [_DIFFERENCES[word] for word in words if word in _DIFFERENCES]
        differences += [] if "--train_all" in words else [_SPLIT]
        source = f"Person_reID_baseline_pytorch, README: {row['train_command']}"
        yield Recipe(
            f"layumi/market1501/{name}",
            "pcb" if "--PCB" in words else "baseline",
            trunk,
            _settings(words),
            1,
            "readme",
            source + (f" ({'; '.join(differences)})" if differences else ""),
            "market1501",
            Target(round(float(row["map"]) / 100, 4), round(float(row["rank1"]) / 100, 4), _HOW),
        )


def _settings(words: list[str]) -> dict[str, Any]:
    """What a command's flags set."""
    settings: dict[str, Any] = {}
    losses: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--name":
            next(rest)
        elif word in _FLAGS:
            name, read = _FLAGS[word]
            settings[name] = read(next(rest))
        elif word in _LOSSES:
            losses.append(_LOSSES[word])
        else:
            settings |= _SWITCHES[word]
    if losses:
        settings["losses"] = ",".join(losses)
    if "sphereface" in losses:
        settings["proxies"] = "frozen"
    if {"--PCB", "--DG"} <= set(words):
        settings["compat"] = "layumi"
    return settings
