"""Catastrophic forgetting score: which images of a large, unlabelled set are close to the domain that matters.

Luo et al., "Self-Supervised Pre-Training for Transformer-Based Person Re-Identification", 2021: take a network that was
pre-trained on the large set, and the same network after supervised fine-tuning on target data. The better their
features of an image agree, the less of it was "forgotten", and the closer it is to the target domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from reidzoo._files import atomic
from reidzoo.data import Records, ReIDDataset, load_dataset
from reidzoo.data.ranked_list import SUFFIXES, write_name_list
from reidzoo.data.transforms import EvalTransform
from reidzoo.errors import ConfigError, DataError
from reidzoo.eval._embed import Precision
from reidzoo.eval._model import load_model
from reidzoo.eval.feature_files import fingerprint
from reidzoo.eval.features import extract_features
from reidzoo.eval.preprocess import create_transform
from reidzoo.models import ReIDModel

Floats = NDArray[np.float32]


def cfs_scores(
    source: nn.Module | str | Path,
    target: nn.Module | str | Path,
    data: str | Path | ReIDDataset | Records,
    *,
    img_size: tuple[int, int] | None = None,
    batch_size: int = 64,
    num_workers: int = 2,
    precision: Precision = "fp32",
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    overwrite: bool = False,
) -> Floats:
    """Score the training images of `data` by the cosine of their features before and after fine-tuning.

    Each image is decoded once and passes both networks; a score is all that is kept of it. Under torchrun the ranks
    share the images. The features are the backbones' (before a neck), without mirror images, as in TransReID-SSL.

    Args:
        source: A network that was pre-trained on these (or such) images: a module, a name for `create_model`, or a run
            folder.
        target: The same network after fine-tuning on the target domain.
        data: A data set or its name, of which the training images count; or records.
        img_size: (height, width) to resize to; None: the networks' own.
        batch_size: Images per forward pass.
        num_workers: Processes that decode files; 0 decodes in this one. The scores are the same.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"auto"``, see `extract_features`.
        device: ``"auto"``: where the networks are, or a GPU if they are on the CPU and there is one.
        out: File ``X.npy`` that the scores are written to while they are made; what was stopped goes on where it was.
        overwrite: Make `out` anew if it holds other scores.

    Returns:
        (N,) float32 in [-1, 1], in the order of the images. Larger is closer to the target domain.

    Raises:
        ConfigError: The networks are not one and the same before and after training, or want images of different sizes.
        DataError: There are no training images, or a feature is NaN or infinite.
        CorruptImageError: An image cannot be decoded; names it.

    Example:
        >>> scores = reidzoo.cfs_scores("runs/pretrained", "runs/market", "luperson:/data/LUP")  # doctest: +SKIP
    """
    records = data if isinstance(data, Records) else load_dataset(data).train
    if len(records) == 0:
        raise DataError("There are no training images to score. Use all splits of a test set: NAME@all")
    before, after = (_Trunk(load_model(model, img_size), img_size) for model in (source, target))
    _check_pair(before, after)
    scores = extract_features(
        _Agreement(before, after), records, flip=False, batch_size=batch_size, num_workers=num_workers,
        precision=precision, device=device, out=out, overwrite=overwrite, desc="Scoring",
    )  # fmt: skip
    return scores[:, 0]


def write_ranking(folder: Path, names: Sequence[str], scores: Floats) -> list[Path]:
    """Write ``cfs.npz`` (``names`` and ``scores`` in the order of the data) and ``CFS_list``: the names, best first.

    The list is there as ``.pkl``, in the form of TransReID-SSL, as ``.json`` and as ``.txt``.

    Args:
        folder: Where to; it is made if it is not there.
        names: N names, as `reidzoo.data.ranked_list.training_names` gives them.
        scores: (N,), from `cfs_scores`.

    Returns:
        The files.
    """
    values, files = folder / "cfs.npz", [folder / f"CFS_list{suffix}" for suffix in SUFFIXES]
    best_first = np.argsort(-scores, kind="stable")
    with atomic(values) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, names=np.array(names), scores=scores)
    for file in files:
        write_name_list(file, [names[i] for i in best_first.tolist()])
    return [values, *files]


class _Trunk(nn.Module):
    """A backbone that takes pixel values 0 to 255 and normalises them its own way."""

    scale: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, img_size: tuple[int, int] | None) -> None:
        super().__init__()
        self.network = model.backbone if isinstance(model, ReIDModel) else model  # the feature before the neck
        transform = create_transform(model, img_size=img_size)
        assert isinstance(transform, EvalTransform)
        self.img_size = transform.img_size
        self.register_buffer("scale", transform.normalize.scale)
        self.register_buffer("bias", transform.normalize.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.network(pixels * self.scale + self.bias)
        return features.float()


class _Agreement(nn.Module):
    """(B, 3, H, W) pixel values -> (B, 1) cosine of two networks' features."""

    def __init__(self, before: _Trunk, after: _Trunk) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.reidzoo_name = f"CFS of {getattr(before.network, 'reidzoo_name', type(before.network).__name__)}"
        # The transform leaves the pixel values as they are: the trunks may want different normalisations.
        self.pretrained_cfg = {"input_size": (3, *before.img_size), "mean": (0.0,) * 3, "std": (1 / 255,) * 3}

    def forward(self, pixels: Tensor) -> Tensor:
        return F.cosine_similarity(self.before(pixels), self.after(pixels), dim=1)[:, None]


def _check_pair(before: _Trunk, after: _Trunk) -> None:
    """Make sure that the two are one network at two moments: else a cosine of their features means nothing."""
    if before.img_size != after.img_size:
        raise ConfigError(
            f"source takes images of {before.img_size}, target of {after.img_size}. Give one size for both: "
            "img_size=(256, 128) (command line: --img-size 256x128)."
        )
    shapes = [{name: tuple(x.shape) for name, x in t.network.state_dict().items()} for t in (before, after)]
    differing = sorted(
        name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
    )
    if differing:
        name = differing[0]
        raise ConfigError(
            f"source and target are different networks: {len(differing)} tensors differ, such as {name}, "
            f"{shapes[0].get(name, 'absent')} and {shapes[1].get(name, 'absent')}. The target has to be the source "
            "after fine-tuning; make it with: reidzoo finetune SOURCE DATA --output-dir DIR"
        )
    if fingerprint(before.network) == fingerprint(after.network):
        raise ConfigError(
            "source and target have the same weights, so that every score would be 1. The target has to be the source "
            "after fine-tuning; make it with: reidzoo finetune SOURCE DATA --output-dir DIR"
        )
