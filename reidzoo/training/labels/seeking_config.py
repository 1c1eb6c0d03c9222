"""Settings of the identity seeking."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from reidzoo.errors import ConfigError, did_you_mean
from reidzoo.training.configs import option


@dataclass(frozen=True, kw_only=True)
class SeekConfig:
    """Settings of the seeking. The distances are the paper's, for its own extractor: see `calibrate_thresholds`."""

    sigma_cst: float = option(0.2, "cosine distance to the rest of its tracklet from which an image is excluded")
    sigma_drm: float = option(0.18, "cosine distance below which two tracklets are one person")
    window: int = option(1000, "tracklets before and after that one is linked with, across videos (0: all)")
    guard: bool = option(True, "link the closest first, and refuse links that make an identity too wide or too large")
    max_radius: float = option(0.25, "guard: cosine distance of a tracklet to its identity's centroid")
    max_images: int = option(400, "guard: images of an identity")
    regroup: bool = option(False, "excluded images that fit each other but no tracklet become one of their own")
    min_fraction: float = option(0.0, "part of a tracklet that has to stay, or all of it is excluded")
    recheck: bool = option(False, "exclude images from the finished identities as from tracklets")
    min_images: int = option(2, "images below which an identity is discarded")
    max_per_id: int = option(0, "images that are kept of an identity, drawn at random (0: all)")
    target_images: int = option(0, "images in all, of whole identities drawn at random (0: all)")
    seed: int = option(0, "seed of what is drawn")

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, expected between 0 and 2"
            for name in ("sigma_cst", "sigma_drm", "max_radius")
            if not 0 < getattr(self, name) <= 2
        ]
        least = dict.fromkeys(("window", "max_per_id", "target_images", "seed"), 0) | {"max_images": 1, "min_images": 1}
        problems += [
            f"{name} is {getattr(self, name)}, expected at least {n}"
            for name, n in least.items()
            if getattr(self, name) < n
        ]
        if not 0 <= self.min_fraction <= 1:
            problems.append(f"min_fraction is {self.min_fraction}, expected between 0 and 1")
        if problems:
            raise ConfigError(f"SeekConfig: {'; '.join(problems)}")

    @classmethod
    def make(cls, config: SeekConfig | None, overrides: dict[str, Any]) -> SeekConfig:
        """Return `config` (or the defaults) with some settings replaced.

        Raises:
            ConfigError: A setting is unknown or out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in overrides:
            if name not in known:
                raise ConfigError(
                    f"There is no setting {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}."
                )
        return cls(**{**(asdict(config) if config else {}), **overrides})
