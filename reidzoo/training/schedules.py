"""Learning rates, weight decays and momenta as plain functions of the progress of a run, measured in epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence


def warmup_cosine(t: float, *, epochs: float, base: float, final: float, warmup: float = 0.0) -> float:
    """Linear from 0 to `base` over `warmup` epochs, then a half cosine down to `final` at `epochs`.

    The closed form of DINO's schedule (Caron et al., 2021, section 3.2): independent of the number of iterations
    per epoch, which changes during CION pre-training.

    Args:
        t: progress in epochs, ``epoch + iteration / iterations_per_epoch``; beyond `epochs` the final value holds.
    """
    if t < warmup:
        return base * t / warmup
    if t >= epochs:
        return final
    return final + 0.5 * (base - final) * (1.0 + math.cos(math.pi * (t - warmup) / (epochs - warmup)))


def released_cosine(step: int, *, epochs: int, steps: int, base: float, final: float, warmup: float = 0.0) -> float:
    """Entry `step` of the table that CION's release makes of the same curve, the last one beyond its end.

    The table has ``epochs * steps`` entries, `steps` being an estimate made before the first epoch: where epochs turn
    out longer, it runs out before the run does.

    Args:
        step: the current epoch's number of steps, times the epoch, plus the step in it.
    """
    climb, total = int(warmup * steps), epochs * steps
    if step < climb:
        return base * step / max(climb - 1, 1)
    i = min(step, total - 1) - climb
    return final + 0.5 * (base - final) * (1.0 + math.cos(math.pi * i / (total - climb)))


def stepped(epoch: int, *, start: float, final: float, epochs: int) -> float:
    """Linear from `start` in epoch 0 to `final` in epoch ``epochs - 1``, constant within an epoch and afterwards.

    DINO's warm-up of the teacher temperature (Caron et al., 2021, appendix C).
    """
    if epoch >= epochs - 1:
        return final
    return start + (final - start) * epoch / (epochs - 1)


def transreid_lr(t: int, *, epochs: int, warmup: int, base: float, group: float | None = None) -> float:
    """Learning rate of TransReID's epoch-wise cosine after `t` finished epochs.

    Warm-up climbs from ``0.01 * base`` to the group's own rate; the cosine's phase counts from epoch 0, not from the
    end of the warm-up, so the rate drops by a few per cent where the two meet. The floor is ``0.002 * base``.

    Args:
        t: finished epochs, 0 in the first epoch.
        group: rate of the parameter group (biases learn faster); default `base`.
    """
    peak = base if group is None else group
    start, floor = 0.01 * base, 0.002 * base
    if t < warmup:
        return start + t * (peak - start) / warmup
    if t >= epochs:
        return floor
    return floor + 0.5 * (peak - floor) * (1.0 + math.cos(math.pi * t / epochs))


def warmup_hold_cosine(t: float, *, epochs: float, base: float, final: float, warmup: float, hold: float) -> float:
    """Linear from ``0.01 * base`` to `base` over `warmup` epochs, constant until `hold`, a half cosine to `final`.

    fast-reid's schedule (He et al., "FastReID", 2020, section 3.5), which counts iterations, not epochs.

    Args:
        t: progress in epochs; beyond `epochs` the final value holds.
        hold: epoch in which the cosine begins, counted from the start of the run.
    """
    if t < warmup:
        return base * (0.01 + 0.99 * t / warmup)
    if t < hold:
        return base
    if t >= epochs:
        return final
    return final + 0.5 * (base - final) * (1.0 + math.cos(math.pi * (t - hold) / (epochs - hold)))


def warmup_steps(t: float, *, base: float, warmup: float, milestones: Sequence[float], start: float = 0.01) -> float:
    """Linear from ``start * base`` to `base` over `warmup` epochs, then a tenth after each of `milestones`.

    The schedule of Luo et al., "Bag of Tricks", 2019, section 3.1, with the start that TransReID's code has for it.

    Args:
        t: finished epochs, 0 in the first epoch.
    """
    climb = start + (1 - start) * t / warmup if t < warmup else 1.0
    return float(base * climb * 0.1 ** sum(t >= m for m in milestones))
