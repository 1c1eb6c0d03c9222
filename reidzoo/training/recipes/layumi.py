"""Rows of the tables in the README of Person_reID_baseline_pytorch, whose commands say the settings.

A row is a recipe where reidzoo has all that its command asks for. Not so are those with adversarial training,
DG-Market, USAM, losses with class weights that nobody trains (SphereFace) or another temperature (instance), and trunks
that differ from timm's: DenseNet without its last ReLU, EfficientNet of another library, ConvNeXt without its last
norm, IBN with last stride 2, DINOv3 with a mean over all tokens.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

from reidzoo.training.recipes._recipe import Recipe, Target
from reidzoo.training.recipes._tables import rows

# What a flag of the command sets, and how its value is read; None: it takes no value, and sets the one given.
_FLAGS: dict[str, tuple[str, Any]] = {
    "--batchsize": ("batch_size", int),
    "--batch": ("batch_size", int),
    "--total": ("epochs", int),
    "--lr": ("lr", float),
    "--warm_epoch": ("warmup_epochs", float),
    "--erasing_p": ("erasing", float),
    "--stride": ("last_stride_1", lambda text: text == "1"),
}
_SWITCHES: dict[str, dict[str, Any]] = {
    "--fp16": {"precision": "fp16"},
    "--train_all": {},  # also with the images of `val`, as reidzoo always does
    "--PCB": {},
    "--use_hr": {},
    "--use_swin": {"img_size": (224, 224), "drop_path": 0.2},
    "--use_swinv2": {"drop_path": 0.2},
}
_LOSSES = {"--circle": "circle", "--triplet": "triplet_mined", "--contrast": "contrastive", "--lifted": "lifted"}
_TRUNKS = {
    "--use_hr": "timm/hrnet_w18",
    "--use_swin": "timm/swin_base_patch4_window7_224",
    "--use_swinv2": "timm/swinv2_base_window8_256",
}
_HOW = "its mAP is by trapezoids: --ap trapezoid"


def recipes() -> Iterator[Recipe]:
    """Yield the rows that reidzoo can run."""
    for row in rows("layumi.csv"):
        words = shlex.split(row["train_command"])[2:]  # without `python train.py`
        settings = _settings(words)
        if settings is None:
            continue
        trunk = next((_TRUNKS[word] for word in words if word in _TRUNKS), "timm/resnet50")
        name = re.sub(r"[^a-z0-9]+", "_", row["method"].lower().replace("resnet-", "resnet")).strip("_")
        yield Recipe(
            f"layumi/market1501/{name}",
            "pcb" if "--PCB" in words else "baseline",
            trunk,
            settings,
            1,
            "readme",
            f"Person_reID_baseline_pytorch, README: {row['train_command']}",
            "market1501",
            Target(round(float(row["map"]) / 100, 4), round(float(row["rank1"]) / 100, 4), _HOW),
        )


def _settings(words: list[str]) -> dict[str, Any] | None:
    """What a command's flags set, None if one of them asks for something that reidzoo does not have."""
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
        elif word in _SWITCHES:
            settings |= _SWITCHES[word]
        else:
            return None
    return settings | ({"losses": ",".join(losses)} if losses else {})
