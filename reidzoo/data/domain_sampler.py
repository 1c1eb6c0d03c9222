"""Batches with an equal share of every domain (data set or camera), for domain generalisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from reidzoo.data.samplers import STREAM, EpochSampler, GradualIdentitySampler, IntArray, Remainder, ShortIds
from reidzoo.errors import ConfigError


class DomainSampler(EpochSampler):
    """On every rank, the same number of images of each domain, domain by domain: P identities times K images.

    The rule of MetaBIN (Choi et al., CVPR 2021). Within a domain, batches are those of `GradualIdentitySampler`. A
    domain that has no P identities left for the next step starts again, freshly shuffled; the epoch ends when every
    domain went through once. So the images of the largest domain come up once, those of the others more often.

    An identity counts per domain: with cameras as domains, K images of one identity are of one camera. As everywhere,
    the plan is a pure function of (seed, epoch), and the images of a step do not depend on the number of ranks.

    Args:
        pids: (N,) identity of every image.
        domains: (N,) domain of every image, such as ``records.extras["domain"]`` or ``records.camid``.
        batch_size: images per rank and step, a multiple of K times the number of domains.
        num_instances: K.
        world_size: number of ranks.
        rank: whose share `epoch` returns.
        seed: not negative.
        remainder: as for `GradualIdentitySampler`.
        short_ids: as for `GradualIdentitySampler`.

    Raises:
        ConfigError: The numbers do not fit together, or a domain has fewer identities than a batch needs.
        DataError: There is junk (negative pids) among the images.
    """

    def __init__(
        self,
        pids: ArrayLike,
        domains: ArrayLike,
        *,
        batch_size: int,
        num_instances: int = 4,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        remainder: Remainder = "pad",
        short_ids: ShortIds = "replace",
    ) -> None:
        labels, domain = np.asarray(pids).reshape(-1), np.asarray(domains).reshape(-1)
        if len(labels) != len(domain):
            raise ConfigError(f"{len(labels)} pids and {len(domain)} domains; expected one domain per image.")
        self.domains: IntArray = np.unique(domain)
        unit = num_instances * len(self.domains)
        if unit < 1 or batch_size < 1 or batch_size % unit:
            fitting = max(1, round(batch_size / max(1, unit))) * unit
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared by {len(self.domains)} domains with {num_instances} images "
                f"per identity. Choose a multiple of {unit}, for example batch_size={fitting}."
            )
        super().__init__(batch_size, world_size, rank, seed)
        self._k = num_instances
        self._rows = [np.flatnonzero(domain == value) for value in self.domains]
        self._samplers = []
        for value, rows in zip(self.domains.tolist(), self._rows, strict=True):
            try:
                sampler = GradualIdentitySampler(
                    labels[rows],
                    batch_size=batch_size // len(self.domains),
                    num_instances=num_instances,
                    world_size=world_size,
                    rank=rank,
                    seed=seed,
                    remainder=remainder,
                    short_ids=short_ids,
                )
            except ConfigError as e:
                raise ConfigError(f"Domain {value}, with batch_size / {len(self.domains)} domains each: {e}") from e
            self._samplers.append(sampler)

    def draw_epoch(self, epoch: int) -> IntArray:
        """Go through every domain, the smaller ones again and again until the largest is through."""
        first = [self._draw(epoch, d, 0) for d in range(len(self.domains))]
        steps = max(map(len, first))
        shares = []
        for d, images in enumerate(first):
            passes, done = [images], len(images)
            while done < steps:
                passes.append(self._draw(epoch, d, len(passes)))
                done += len(passes[-1])
            shares.append(np.concatenate(passes)[:steps].reshape(steps, self.world_size, -1))
        return np.concatenate(shares, axis=2).reshape(steps, -1)  # rank by rank, and domain by domain within

    def _draw(self, epoch: int, domain: int, turn: int) -> IntArray:
        """Rows of one pass through a domain: (steps, its share of the global batch)."""
        rng = np.random.default_rng((self.seed, epoch, STREAM, domain, turn))
        rows: IntArray = self._rows[domain][self._samplers[domain].draw_pass(self._k, rng)]
        return rows
