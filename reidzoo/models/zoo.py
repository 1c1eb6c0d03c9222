"""The 32 backbones of ReIDZoo (CION, "Cross-video Identity Correlating Person Re-identification Pre-training"), and
those of earlier releases, pre-trained on LUPerson or LUPerson-NL.

Parameters are counted on the modules; FLOPs and fine-tuning settings are the published ones.
"""

from __future__ import annotations

from reidzoo.models._registry import IMAGENET_MEAN, IMAGENET_STD, FinetuneHint, ModelSpec, register

_FAMILY_TAGS = {
    "resnet": ("cnn", "batchnorm"),
    "resnet_ibn": ("cnn", "batchnorm", "ibn"),
    "convnext": ("cnn",),
    "edgenext": ("hybrid", "mobile"),
    "ghostnet": ("cnn", "mobile", "batchnorm"),
    "repvit": ("cnn", "mobile", "batchnorm"),
    "fastvit": ("hybrid", "mobile", "batchnorm"),
    "vit": ("transformer", "ibn", "batchnorm"),
    "vit_plain": ("transformer",),
    "pass_vit": ("transformer",),
    "solider": ("transformer",),
    "swin": ("transformer",),
    "volo": ("transformer", "batchnorm"),
}

# name, family, timm name, embed_dim, params (M), FLOPs (G), official stem, published name,
# fine-tuning (batch size, warm-up epochs) on Market-1501 and MSMT17
_ROWS = (
    ("resnet18", "resnet", "resnet18", 512, 11.18, 2.00, "ResNet18", "ResNet18", (256, 20), (32, 20)),
    ("resnet50", "resnet", "resnet50", 2048, 23.51, 4.09, "ResNet50", "ResNet50", (512, 20), (64, 20)),
    ("resnet101", "resnet", "resnet101", 2048, 42.50, 6.54, "ResNet101", "ResNet101", (128, 20), (128, 20)),
    ("resnet152", "resnet", "resnet152", 2048, 58.14, 8.98, "ResNet152", "ResNet152", (128, 20), (128, 20)),
    ("resnet18_ibn", "resnet_ibn", "resnet18", 512, 11.18, 2.00, "ResNet18_IBN", "ResNet18-IBN", (256, 20), (32, 20)),
    ("resnet50_ibn", "resnet_ibn", "resnet50", 2048, 23.51, 4.09, "ResNet50_IBN", "ResNet50-IBN", (512, 20), (64, 20)),
    ("resnet101_ibn", "resnet_ibn", "resnet101", 2048, 42.50, 6.54, "ResNet101_IBN", "ResNet101-IBN", (64, 20), (128, 20)),  # noqa: E501
    ("resnet152_ibn", "resnet_ibn", "resnet152", 2048, 58.14, 8.98, "ResNet152_IBN", "ResNet152-IBN", (128, 20), (128, 20)),  # noqa: E501
    ("vit_tiny", "vit", "vit_tiny_patch16_224", 192, 6.23, 1.55, "ViT_Tiny", "ViT-T", (512, 20), (512, 20)),
    ("vit_small", "vit", "vit_small_patch16_224", 384, 23.00, 3.79, "ViT_Small", "ViT-S", (512, 20), (512, 20)),
    ("vit_base", "vit", "vit_base_patch16_224", 768, 88.39, 12.37, "ViT_Base", "ViT-B", (384, 20), (384, 20)),
    ("swin_tiny", "swin", "swin_tiny_patch4_window7_224", 768, 27.53, 3.13, "Swin_Tiny", "Swin-T", (64, 20), (64, 20)),
    ("swin_small", "swin", "swin_small_patch4_window7_224", 768, 48.85, 5.93, "Swin_Small", "Swin-S", (64, 20), (64, 20)),  # noqa: E501
    ("swin_base", "swin", "swin_base_patch4_window7_224", 1024, 86.76, 10.44, "Swin_Base", "Swin-B", (64, 20), (64, 20)),  # noqa: E501
    ("convnext_tiny", "convnext", "convnext_tiny", 768, 27.82, 2.92, "ConvNext_Tiny", "ConvNext-T", (64, 20), (64, 20)),
    ("convnext_small", "convnext", "convnext_small", 768, 49.45, 5.68, "ConvNext_Small", "ConvNext-S", (256, 20), (256, 20)),  # noqa: E501
    ("convnext_base", "convnext", "convnext_base", 1024, 87.57, 10.04, "ConvNext_Base", "ConvNext-B", (120, 20), (256, 20)),  # noqa: E501
    ("edgenext_x_small", "edgenext", "edgenext_x_small", 192, 2.14, 0.27, "EdgeNext_XSmall", "EdgeNext-XS", (64, 20), (32, 20)),  # noqa: E501
    ("edgenext_small", "edgenext", "edgenext_small", 304, 5.28, 0.63, "EdgeNext_Small", "EdgeNext-S", (256, 20), (64, 20)),  # noqa: E501
    ("edgenext_base", "edgenext", "edgenext_base", 584, 17.93, 1.92, "EdgeNext_Base", "EdgeNext-B", (64, 20), (64, 20)),
    ("ghostnet_0_5", "ghostnet", "ghostnet_050", 1280, 1.31, 0.03, "GhostNet_0_5", "GhostNet 0.5x", (32, 40), (32, 20)),
    ("ghostnet_1_0", "ghostnet", "ghostnet_100", 1280, 3.90, 0.10, "GhostNet_1_0", "GhostNet 1.0x", (64, 20), (64, 20)),
    ("ghostnet_1_3", "ghostnet", "ghostnet_130", 1280, 6.08, 0.16, "GhostNet_1_3", "GhostNet 1.3x", (64, 20), (64, 20)),
    ("repvit_m0_9", "repvit", "repvit_m0_9", 384, 4.72, 0.56, "RepViT_m0_9", "RepViT-M0.9", (128, 20), (64, 20)),
    ("repvit_m1_0", "repvit", "repvit_m1_0", 448, 6.40, 0.75, "RepViT_m1_0", "RepViT-M1.0", (256, 20), (64, 20)),
    ("repvit_m1_5", "repvit", "repvit_m1_5", 512, 13.62, 1.54, "RepViT_m1_5", "RepViT-M1.5", (64, 20), (64, 20)),
    ("fastvit_s12", "fastvit", "fastvit_s12", 1024, 8.45, 0.93, "FastViT_S12", "FastViT-S12", (64, 20), (64, 20)),
    ("fastvit_sa12", "fastvit", "fastvit_sa12", 1024, 10.56, 1.00, "FastViT_SA12", "FastViT-SA12", (64, 20), (64, 20)),
    ("fastvit_sa24", "fastvit", "fastvit_sa24", 1024, 20.53, 1.92, "FastViT_SA24", "FastViT-SA24", (64, 20), (64, 20)),
    ("volo_d1", "volo", "volo_d1_224", 384, 25.84, 4.40, "VOLO_D1", "VOLO-D1", (256, 20), (128, 20)),
    ("volo_d2", "volo", "volo_d2_224", 512, 57.62, 9.15, "VOLO_D2", "VOLO-D2", (256, 20), (64, 20)),
    ("volo_d3", "volo", "volo_d3_224", 512, 85.26, 13.26, "VOLO_D3", "VOLO-D3", (128, 20), (64, 20)),
)  # fmt: skip

# The published learning rate is 4e-4 per 64 images, but for these two.
_ODD_LR = {("convnext_base", "market1501"): 8e-4, ("swin_base", "msmt17"): 2e-4}


def _hint(name: str, dataset: str, batch_size: int, warmup_epochs: int) -> FinetuneHint:
    lr = _ODD_LR.get((name, dataset), batch_size * 4e-4 / 64)
    return FinetuneHint(dataset, lr, batch_size, warmup_epochs)


for _name, _family, _timm, _dim, _params, _flops, _stem, _published, _market, _msmt in _ROWS:
    register(
        ModelSpec(
            name=_name,
            family=_family,
            timm_name=_timm,
            embed_dim=_dim,
            params_m=_params,
            flops_g=_flops,
            official_stem=_stem,
            published_name=_published,
            tags=(*_FAMILY_TAGS[_family], "reidzoo"),
            finetuning=(_hint(_name, "market1501", *_market), _hint(_name, "msmt17", *_msmt)),
        )
    )

# name, release, family, timm name, embed_dim, params (M), official stem, published name
_RELEASED = (
    ("transreid_ssl_vit_small", "transreid_ssl", "vit_plain", "vit_small_patch16_224", 384, 21.64, "vit_small_cfs_lup", "TransReID-SSL ViT-S/16"),  # noqa: E501
    ("transreid_ssl_vit_small_ics", "transreid_ssl", "vit", "vit_small_patch16_224", 384, 23.00, "vit_small_ics_cfs_lup", "TransReID-SSL ViT-S/16+ICS"),  # noqa: E501
    ("transreid_ssl_vit_base_ics", "transreid_ssl", "vit", "vit_base_patch16_224", 768, 88.39, "vit_base_ics_cfs_lup", "TransReID-SSL ViT-B/16+ICS"),  # noqa: E501
    ("pass_vit_small", "pass", "pass_vit", "vit_small_patch16_224", 768, 21.64, "pass_vit_small_full", "PASS ViT-S/16"),
    ("pass_vit_base", "pass", "pass_vit", "vit_base_patch16_224", 1536, 85.75, "pass_vit_base_full", "PASS ViT-B/16"),
    ("luperson_resnet50", "luperson", "resnet", "resnet50", 2048, 23.51, "lup_moco_r50", "LUPerson ResNet50"),
    ("luperson_resnet101", "luperson", "resnet", "resnet101", 2048, 42.50, "", "LUPerson ResNet101"),
    ("luperson_resnet152", "luperson", "resnet", "resnet152", 2048, 58.14, "", "LUPerson ResNet152"),
    ("luperson_nl_resnet50", "luperson_nl", "resnet", "resnet50", 2048, 23.51, "", "LUPerson-NL ResNet50"),
    ("luperson_nl_resnet101", "luperson_nl", "resnet", "resnet101", 2048, 42.50, "", "LUPerson-NL ResNet101"),
    ("luperson_nl_resnet152", "luperson_nl", "resnet", "resnet152", 2048, 58.14, "", "LUPerson-NL ResNet152"),
    ("solider_swin_tiny", "solider", "solider", "swin_tiny_patch4_window7_224", 768, 27.53, "", "SOLIDER Swin-T"),
    ("solider_swin_small", "solider", "solider", "swin_small_patch4_window7_224", 768, 48.85, "", "SOLIDER Swin-S"),
    ("solider_swin_base", "solider", "solider", "swin_base_patch4_window7_224", 1024, 86.76, "", "SOLIDER Swin-B"),
)  # fmt: skip

# Mean and standard deviation of the data sets, with which their own ResNets were trained; the others took ImageNet's.
_STATISTICS = {
    "luperson": ((0.3525, 0.3106, 0.3140), (0.2660, 0.2522, 0.2505)),
    "luperson_nl": ((0.3452, 0.3070, 0.3114), (0.2633, 0.2500, 0.2480)),
}

for _name, _release, _family, _timm, _dim, _params, _stem, _published in _RELEASED:
    _mean, _std = _STATISTICS.get(_release, (IMAGENET_MEAN, IMAGENET_STD))
    register(
        ModelSpec(
            name=_name,
            family=_family,
            timm_name=_timm,
            embed_dim=_dim,
            params_m=_params,
            flops_g=None,
            official_stem=_stem,
            published_name=_published,
            tags=(*_FAMILY_TAGS[_family], _release),
            release=_release,
            mean=_mean,
            std=_std,
            license="luperson",
        )
    )
