"""What a run may do, but its user hardly wants: said before it starts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from reidzoo.data import Records
from reidzoo.training.configs import CIONConfig, FinetuneConfig, PretrainConfig, TrainConfig


def doubts(config: TrainConfig, train: Records) -> Iterator[str]:
    """Say what is odd about the settings, and about the training images under these settings."""
    epochs, warmup = config.epochs, float(getattr(config, "warmup_epochs", 0))
    if warmup >= epochs:
        yield (
            f"warmup_epochs is {warmup:g}, but the run has {epochs} epochs: the learning rate never reaches its full "
            "value. Set warmup_epochs lower (command line: --warmup-epochs)."
        )
    if isinstance(config, PretrainConfig) and config.freeze_last_layer >= epochs:
        yield (
            f"freeze_last_layer is {config.freeze_last_layer}, but the run has {epochs} epochs: the head's last layer "
            "never learns. Set freeze_last_layer=0 for so short a run (command line: --freeze-last-layer 0)."
        )
    if isinstance(config, FinetuneConfig) and config.freeze_epochs >= epochs:
        yield (
            f"freeze_epochs is {config.freeze_epochs}, but the run has {epochs} epochs: the pre-trained part never "
            "learns. Set freeze_epochs lower for so short a run (command line: --freeze-epochs)."
        )
    if isinstance(config, CIONConfig | FinetuneConfig):
        yield from _about_identities(config, train)


def _about_identities(config: CIONConfig | FinetuneConfig, train: Records) -> Iterator[str]:
    counts = np.unique(train.pid, return_counts=True)[1]
    single, largest = int((counts == 1).sum()), int(counts.max())
    steps = [(0, config.num_instances)] if isinstance(config.num_instances, int) else config.num_instances
    most = max(k for first, k in steps if first < config.epochs)
    if len(counts) == 1:
        yield (
            f"all {len(train):,} training images are of one identity: there is nothing to tell apart, and nothing will "
            "be learned. What a data set has, says: reidzoo data check"
        )
    elif isinstance(config, CIONConfig) and single > len(counts) / 2:
        yield (
            f"{single:,} of {len(counts):,} identities have one image: CION learns from several images of a person. "
            "For images whose persons are not known there is method='dino' (command line: --method dino)."
        )
    elif most > largest:
        yield (
            f"num_instances is {most}, but no identity has more than {largest} images: each of them comes up several "
            "times in a group. Set num_instances lower (command line: --num-instances)."
        )
