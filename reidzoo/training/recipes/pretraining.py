"""Pre-training settings: what the sources say, and what they leave open.

CION's paper gives batch size and number of local views of each backbone in a table that is published as an image only;
its README repeats one row, ResNet50-IBN. All else is shared by the 32 backbones (section 4.1: as in DINO). The other
batch sizes are ours, and so marked.
"""

from __future__ import annotations

from collections.abc import Iterator

from reidzoo.training.recipes._recipe import Recipe

# Images per GPU with 8 local views: the largest multiple of 24 up to 120 that keeps no more tensors for the backward
# than ResNet50-IBN's 120 do. Printed by: python tests/benchmarks/bench_pretrain_memory.py
_CION_BATCH = {
    "convnext_base": 24, "convnext_small": 48, "convnext_tiny": 96,
    "edgenext_base": 96, "edgenext_small": 120, "edgenext_x_small": 120,
    "fastvit_s12": 120, "fastvit_sa12": 120, "fastvit_sa24": 48,
    "ghostnet_0_5": 120, "ghostnet_1_0": 120, "ghostnet_1_3": 120,
    "repvit_m0_9": 120, "repvit_m1_0": 120, "repvit_m1_5": 72,
    "resnet18": 120, "resnet50": 120, "resnet101": 72, "resnet152": 48,
    "resnet18_ibn": 120, "resnet50_ibn": 120, "resnet101_ibn": 72, "resnet152_ibn": 48,
    "swin_base": 24, "swin_small": 24, "swin_tiny": 48,
    "vit_base": 48, "vit_small": 96, "vit_tiny": 120,
    "volo_d1": 48, "volo_d2": 24, "volo_d3": 24,
}  # fmt: skip

_COMPUTED = (
    "the paper's batch size is in a table that exists as an image only; this one keeps no more in GPU memory than the "
    "README's run of ResNet50-IBN (tests/benchmarks/bench_pretrain_memory.py)"
)

# Where the released code has a defect that its weights may depend on, the setting that has it back.
_CION_RELEASE = {
    "remainder": "reference",
    "short_ids": "replace",
    "rank_slices": True,
    "schedule": "release",
    "teacher_drop_path": True,
    "clip_scaled_grads": True,
    "precision": "fp16",
    "keep_every": 5,
}

# SOLIDER's first step crops as CION does.
_SOLIDER = {"batch_size": 48, "global_scale": (0.8, 1.0), "local_scale": (0.05, 0.8), "crop_ratio": (0.0, 0.0)}


def recipes() -> Iterator[Recipe]:
    """Yield all recipes of `reidzoo.pretrain`."""
    for model, batch in _CION_BATCH.items():
        known = model == "resnet50_ibn"
        settings = {"batch_size": batch, "local_crops": 8}
        source = "CION_ReIDZoo, README: 8 V100 with 32 GB, about 5 days" if known else _COMPUTED
        yield Recipe(f"cion/{model}", "cion", model, settings, 8, "readme" if known else "reidzoo", source)
    yield Recipe(
        "cion/release",
        "cion",
        "resnet50_ibn",
        _CION_RELEASE,
        8,
        "code",
        "CION_ReIDZoo, CION_Pretrain: as published, its defects included",
    )
    for model in ("vit_small", "vit_small_ics", "vit_base_ics"):
        yield Recipe(
            f"dino/transreid_ssl_{model}",
            "dino",
            f"transreid_ssl_{model}",
            {},
            8,
            "code",
            "TransReID-SSL, dino/: on the 60 % of LUPerson with the highest CFS (data_fraction=0.6, ranked_list=...)",
        )
    for size in ("tiny", "small", "base"):
        yield Recipe(
            f"dino/solider_swin_{size}",
            "dino",
            f"solider_swin_{size}",
            _SOLIDER,
            8,
            "code",
            "SOLIDER, step 1 of 2: DINO on LUPerson, before the semantic step",
        )
