"""Supervised fine-tuning in the setting of TransReID (He et al., ICCV 2021) that CION's published numbers use.

BNNeck (Luo et al., "Bag of Tricks", 2019): the triplet loss sees the feature before the neck, the classifier the one
after it. PK batches, SGD, a cosine over epochs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidzoo.data import Records, ReIDDataset
from reidzoo.data.loaders import ImageDataset
from reidzoo.data.samplers import PKSampler
from reidzoo.data.transforms import TrainTransform
from reidzoo.models.heads import BNNeck, ReIDModel
from reidzoo.training._distributed import World
from reidzoo.training._engine import Method, Progress
from reidzoo.training._probe import held_out, retrieval
from reidzoo.training.configs import TransReIDConfig
from reidzoo.training.losses import batch_hard_triplet
from reidzoo.training.optim import bias_groups
from reidzoo.training.schedules import transreid_lr


class Supervised(Method):
    """The method, as its release trains: see the module's first lines."""

    name = "transreid"

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: TransReIDConfig, world: World) -> None:
        self.config, self.world = config, world
        self.held_out = held_out(data, eval_every=config.eval_every)
        train: Records = data.train.relabel()
        # From now on the network wants this normalisation: evaluation and the saved file go by it.
        backbone.pretrained_cfg = {  # type: ignore[assignment]
            **backbone.pretrained_cfg,  # type: ignore[dict-item]
            "mean": config.mean,
            "std": config.std,
            "input_size": (3, *config.img_size),
        }
        neck = BNNeck(int(backbone.embed_dim), train.num_pids, neck_feature=config.neck_feature)  # type: ignore[arg-type]
        self.network = ReIDModel(backbone, neck).to(world.device)
        groups = bias_groups(self.network, lr=config.lr, bias_lr_factor=config.bias_lr_factor)
        self.optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.sampler = PKSampler(
            train.pid,
            batch_size=config.batch_size,
            num_instances=config.num_instances,
            world_size=world.size,
            rank=world.rank,
            seed=config.seed,
        )
        augment = TrainTransform(
            config.img_size, mean=config.mean, std=config.std, padding=config.padding, erasing=config.erasing
        )
        self.dataset = ImageDataset(train, augment, seed=config.seed)

    def plan(self, epoch: int) -> np.ndarray:
        """Return PK batches: P identities, K images of each, in runs of K."""
        return self.sampler.epoch(epoch)

    def set_rates(self, progress: Progress) -> None:
        """Set the learning rate of this epoch; biases learn faster."""
        c = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = transreid_lr(
                progress.epoch, epochs=c.epochs, warmup=c.warmup_epochs, base=c.lr, group=group["base_lr"]
            )

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Add cross-entropy on the logits and batch-hard triplet on the feature before the neck."""
        output = network(views[0])
        logits, feature = output.logits[0], output.features[0]
        id_loss = F.cross_entropy(logits, pids, label_smoothing=self.config.label_smoothing)
        triplet = batch_hard_triplet(feature, pids)
        accuracy = (logits.argmax(1) == pids).float().mean()
        loss = self.config.id_weight * id_loss + self.config.triplet_weight * triplet
        return {"loss": loss, "id_loss": id_loss, "triplet": triplet, "accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Return the network's tensors."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.network.load_state_dict(state)

    def trained(self) -> nn.Module:
        """Return the whole `ReIDModel`."""
        return self.network

    def evaluate(self) -> dict[str, float]:
        """Return mAP, Rank-1/5/10 and mINP on the data set's query and gallery, {} where it has none."""
        c = self.config
        return retrieval(
            self.network, self.held_out, img_size=c.img_size, device=self.world.device, num_workers=c.num_workers
        )
