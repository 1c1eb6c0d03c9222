"""What all fine-tuning with identity labels has in common; a method says its head, its losses and its rates.

A method overrides what differs: the network or its head, `terms` (the losses), `factor` and `rate` (who learns how
fast, and when), and where it must, the sampler, the transform and the optimiser.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from reidzoo.data import Records, ReIDDataset
from reidzoo.data.loaders import ImageDataset
from reidzoo.data.samplers import EpochSampler, PKSampler, ShuffleSampler
from reidzoo.data.transforms import TrainTransform
from reidzoo.models._chain import evaluation_mode
from reidzoo.models._surgery import set_drop_path
from reidzoo.models.heads import Head, HeadOutput, ReIDModel
from reidzoo.training._distributed import World
from reidzoo.training._engine import Method, Progress
from reidzoo.training._probe import held_out, retrieval
from reidzoo.training.configs import FinetuneConfig
from reidzoo.training.optim import build_optimizer, layer_factors, rate_groups


class Supervised(Method):
    """A network with a head that classifies the training identities.

    Attributes:
        interpolation: how test images are resized; training images always bicubic.
        average: the moving average of `network`, which is then what the run is for; None without `ema`.
        resting: what of `frozen` learns after `freeze_epochs`.
    """

    interpolation: ClassVar[str] = "bilinear"
    config: FinetuneConfig

    def __init__(self, backbone: nn.Module, data: ReIDDataset, config: FinetuneConfig, world: World) -> None:
        self.config, self.world = config, world
        self.held_out = held_out(data, eval_every=config.eval_every)
        train = data.train.relabel()
        # From now on the network wants this normalisation: evaluation and the saved file go by it.
        backbone.pretrained_cfg = {  # type: ignore[assignment]
            **backbone.pretrained_cfg,  # type: ignore[dict-item]
            "mean": config.mean,
            "std": config.std,
            "input_size": (3, *config.img_size),
            "interpolation": self.interpolation,
        }
        if config.drop_path >= 0:
            set_drop_path(backbone, config.drop_path)
        self.network = self.make_network(backbone, train).to(world.device)
        self.average = copy.deepcopy(self.network).requires_grad_(False) if config.ema else None
        self.optimizer = self.make_optimizer(self.network)
        if world.size > 1:
            for p in unread(self.network, config.img_size):
                p.requires_grad_(False)  # DDP waits for all gradients that it is told of
        self.resting = [p for part in self.frozen() for p in part.parameters() if p.requires_grad]
        self.sampler = self.make_sampler(train)
        cameras = bool(getattr(self.network, "takes_cameras", False))
        self.dataset = ImageDataset(train, self.make_transform(), seed=config.seed, cameras=cameras)

    def make_network(self, backbone: nn.Module, train: Records) -> nn.Module:
        """Put the head on the backbone."""
        return ReIDModel(backbone, self.make_head(int(backbone.embed_dim), train))  # type: ignore[arg-type]

    @abstractmethod
    def make_head(self, width: int, train: Records) -> Head:
        """Return the head for features of `width` and the identities of the (relabelled) training images."""

    def make_optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the config's optimiser over groups of equal rate; a group's ``base_lr`` is its peak."""
        c = self.config
        factors = layer_factors(network, c.layer_decay)
        groups = rate_groups(network, c.lr, lambda name: self.factor(name) * factors.get(name, 1.0))
        return build_optimizer(c.optimizer, groups, lr=c.lr, weight_decay=c.weight_decay, momentum=c.momentum)

    def make_sampler(self, train: Records) -> EpochSampler:
        """Plan batches of P identities with K images each; with K = 1, of images in random order."""
        c, world = self.config, self.world
        place: dict[str, int] = {"world_size": world.size, "rank": world.rank, "seed": c.seed}
        if c.num_instances == 1:
            return ShuffleSampler(len(train), batch_size=c.batch_size, **place)
        return PKSampler(train.pid, batch_size=c.batch_size, num_instances=c.num_instances, **place)

    def make_transform(self) -> TrainTransform:
        """Return the augmentation."""
        c = self.config
        return TrainTransform(
            c.img_size, mean=c.mean, std=c.std, padding=c.padding, erasing=c.erasing, erasing_fill=c.erasing_fill
        )

    def plan(self, epoch: int) -> np.ndarray:
        """Return the sampler's batches."""
        return self.sampler.epoch(epoch)

    def factor(self, name: str) -> float:
        """Return how fast a parameter learns, relative to `lr`."""
        return 1.0

    @abstractmethod
    def rate(self, progress: Progress, peak: float) -> float:
        """Return the learning rate, now, of what learns with `peak` at its fastest."""

    def set_rates(self, progress: Progress) -> None:
        """Set the learning rates, and whether the frozen parts learn and collect BatchNorm statistics."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(progress, group["base_lr"])
        learns = progress.epoch >= self.config.freeze_epochs
        for part in self.frozen():
            if part.training != learns:
                part.train(learns)
        for p in self.resting:  # without a gradient there is no step, no weight decay and no momentum
            p.requires_grad_(learns)

    def frozen(self) -> list[nn.Module]:
        """Return the parts that rest for the first `freeze_epochs`."""
        return [self.network.backbone]  # type: ignore[list-item]

    @abstractmethod
    def terms(self, output: HeadOutput, pids: Tensor, progress: Progress) -> dict[str, tuple[float, Tensor]]:
        """Return by name: the weight and the value of each scalar that the loss adds up."""

    def loss(self, network: nn.Module, views: list[Tensor], pids: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Add the terms up; ``accuracy`` is that of the first classifier."""
        pids, *camids = pids.T.contiguous() if pids.ndim == 2 else [pids]  # of networks that take cameras
        output = network(views[0], *camids)
        terms = self.terms(output, pids, progress)
        accuracy = (output.logits[0].argmax(1) == pids).float().mean()
        values = {name: value for name, (_, value) in terms.items()}
        return {"loss": sum(weight * value for weight, value in terms.values()), **values, "accuracy": accuracy}

    def after_step(self, progress: Progress) -> None:
        """Let the average follow; statistics of BatchNorm, which are averages already, are copied."""
        if self.average is not None:
            follow(self.average, self.network, self.config.ema)

    def state_dict(self) -> dict[str, Any]:
        """Return the network's tensors, and those of its average."""
        if self.average is None:
            return self.network.state_dict()
        return {"network": self.network.state_dict(), "average": self.average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if self.average is not None:
            self.average.load_state_dict(state["average"])
            state = state["network"]
        self.network.load_state_dict(state)

    def trained(self) -> nn.Module:
        """Return the network with its head, or its average."""
        return self.network if self.average is None else self.average

    def evaluate(self) -> dict[str, float]:
        """Return mAP, Rank-1/5/10 and mINP on the data set's query and gallery, {} where it has none."""
        c = self.config
        return retrieval(
            self.trained(), self.held_out, img_size=c.img_size, device=self.world.device, num_workers=c.num_workers
        )


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """Let the weights of `average` keep `momentum` of themselves, and copy the buffers of `network` (statistics)."""
    update = get_ema_multi_avg_fn(momentum)  # type: ignore[no-untyped-call]
    update(list(average.parameters()), list(network.parameters()), None)
    for ours, theirs in zip(average.buffers(), network.buffers(), strict=True):
        ours.copy_(theirs)


def unread(network: Any, size: tuple[int, int]) -> list[nn.Parameter]:
    """Return the backbone's parameters that what the head reads does not depend on, as a norm behind the last map.

    Args:
        network: A `ReIDModel`.
        size: (height, width) of its images.
    """
    parameters = [p for p in network.backbone.parameters() if p.requires_grad]
    if not parameters:
        return []
    with evaluation_mode(network):
        read = network.head.read(network.backbone, parameters[0].new_zeros(1, 3, *size))
    outputs = [x.sum() for x in (read if isinstance(read, list | tuple) else [read])]
    grads = torch.autograd.grad(outputs, parameters, allow_unused=True)
    return [p for p, grad in zip(parameters, grads, strict=True) if grad is None]
