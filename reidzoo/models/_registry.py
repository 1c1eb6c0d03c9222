"""Names, aliases and facts of the backbones. Pure data: importing this costs no torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from reidzoo._registry import Registry
from reidzoo.errors import ConfigError, UnknownModelError, did_you_mean

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class FinetuneHint:
    """Published fine-tuning settings of one backbone.

    Common to all: SGD, cosine schedule, 120 epochs, 256x128, 4 images per identity. Images are normalised with
    mean = std = 0.5 there, unlike in pre-training.
    """

    dataset: str
    lr: float
    batch_size: int
    warmup_epochs: int


@dataclass(frozen=True)
class PublishedResult:
    """Published retrieval results of a released backbone after one kind of further training, in percent.

    Attributes:
        method: ``transreid`` or ``mgn`` for fine-tuning with labels; ``usl`` for cluster contrast without any; ``uda``
            for the same, but started from labels of the other data set (MSMT17's for Market-1501 and vice versa).
        img_size: (height, width) of the images.
        market_map, market_r1, msmt_map, msmt_r1: mAP and Rank-1 on Market-1501 and MSMT17. The mAP of ``usl`` and
            ``uda`` is scikit-learn's average precision, that of the others the usual sum of rectangles.
        market_map_gain, market_r1_gain, msmt_map_gain, msmt_r1_gain: Lead over ImageNet weights of the same backbone.
        params_m: Parameters in millions as published. Those of the ReIDZoo ViTs count a 1000-way linear layer that is
            in no checkpoint: compare `ModelSpec.params_m`.
        flops_g: Multiply-adds in billions at `img_size`, as published.

    None is what was not published.
    """

    method: str
    img_size: tuple[int, int]
    market_map: float
    market_r1: float
    msmt_map: float
    msmt_r1: float
    market_map_gain: float | None = None
    market_r1_gain: float | None = None
    msmt_map_gain: float | None = None
    msmt_r1_gain: float | None = None
    params_m: float | None = None
    flops_g: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """What is known about a backbone without building it.

    Attributes:
        name: Name for `create_model`.
        family: Architecture; names the builder.
        timm_name: The timm model it is built on.
        embed_dim: Width D of the pooled feature.
        params_m: Backbone parameters in millions, without any classifier.
        flops_g: Multiply-adds in billions for one 256x128 image, as published; None if they were not.
        official_stem: Name of the official checkpoint without ``.pth``; empty where the release gives none.
        published_name: Name in the published table; of the other releases, with the release before it.
        tags: ``cnn | transformer | hybrid``, ``mobile``, ``ibn``, ``batchnorm``, and the release.
        finetuning: Published settings per data set.
        release: Who released the weights: ``reidzoo``, ``transreid_ssl``, ``pass``, ``luperson``, ``luperson_nl``,
            ``solider``.
        input_size: (channels, height, width).
        mean, std: Normalisation of pre-training, for RGB in 0..1.
        license: Terms of the pre-trained weights (not of this code).
    """

    name: str
    family: str
    timm_name: str
    embed_dim: int
    params_m: float
    flops_g: float | None
    official_stem: str
    published_name: str
    tags: tuple[str, ...]
    finetuning: tuple[FinetuneHint, ...] = ()
    release: str = "reidzoo"
    input_size: tuple[int, int, int] = (3, 256, 128)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    license: str = "reidzoo"

    @property
    def results(self) -> tuple[PublishedResult, ...]:
        """Published retrieval results of this backbone; of one method, the smallest image size comes first."""
        return published_results().get(self.published_name, ())


MODELS: Registry[ModelSpec] = Registry(
    "model", UnknownModelError, hint="Type `reidzoo models` for the zoo; any timm model is 'timm/<name>'."
)
_ALIASES: dict[str, str] = {}


def register(spec: ModelSpec) -> None:
    """Add `spec` under its name; its official file name and published name become aliases."""
    MODELS.add(spec.name, spec)
    names = (spec.official_stem, f"{spec.official_stem}.pth") if spec.official_stem else ()
    for alias in (spec.name, spec.published_name, *names):
        _ALIASES[alias.lower()] = spec.name


def list_models(pattern: str = "*", *, family: str | None = None, tag: str | None = None) -> list[str]:
    """Return the names of the zoo's backbones, resnet18 before resnet101.

    Args:
        pattern: Shell pattern, e.g. ``"resnet*_ibn"``; case does not matter.
        family: Keep one family, e.g. ``"vit"``.
        tag: Keep the models with a tag (`ModelSpec.tags`), e.g. ``"mobile"``, or of one release, e.g. ``"reidzoo"``.

    Raises:
        ConfigError: No model has this family or tag.
    """
    specs = _specs()
    for kind, value, known in (
        ("family", family, {s.family for s in specs.values()}),
        ("tag", tag, {t for s in specs.values() for t in s.tags}),
    ):
        if value is not None and value not in known:
            raise ConfigError(
                f"No model has the {kind} {value!r}.{did_you_mean(value, known)} Known: {', '.join(sorted(known))}."
            )
    return [
        name
        for name in MODELS.names(pattern.lower())
        if (family is None or specs[name].family == family) and (tag is None or tag in specs[name].tags)
    ]


def model_info(name: str) -> ModelSpec:
    """Return the facts about a zoo backbone.

    Args:
        name: A name of `list_models()`, an official file name (``ResNet50_IBN``) or a published name; any case.

    Raises:
        UnknownModelError: With the closest names.
    """
    _specs()
    return MODELS[_ALIASES.get(name.lower(), name)]


def _specs() -> dict[str, ModelSpec]:
    """All rows by name. The rows live in `zoo`, which registers them when it is first imported."""
    from reidzoo.models import zoo  # noqa: F401

    return {name: MODELS[name] for name in MODELS}


@cache
def published_results() -> dict[str, tuple[PublishedResult, ...]]:
    """The published tables (package data), by published name."""
    table: dict[str, tuple[PublishedResult, ...]] = {}
    for name in ("reidzoo_results.csv", "released_results.csv"):
        text = files("reidzoo.models").joinpath(name).read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            model, method = row.pop("model"), row.pop("method")
            height, width = row.pop("img_size").split("x")
            numbers = {k: float(v) for k, v in row.items()}
            result = PublishedResult(method, (int(height), int(width)), **numbers)
            table[model] = (*table.get(model, ()), result)
    return table
