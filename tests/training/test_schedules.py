from __future__ import annotations

import math

import numpy as np
import pytest

from reidzoo.training.schedules import released_cosine, stepped, transreid_lr, warmup_cosine


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 0.0),
        (10_000, 1.875e-3),
        (50_000, 1.1007083424739137e-3),
        (99_999, 1.000000570853087e-6),
        (100_000, 1e-6),
        (120_000, 1e-6),
    ],
)
def test_cion_learning_rate(index: int, value: float) -> None:
    lr = warmup_cosine(index / 1000, epochs=100, base=1.875e-3, final=1e-6, warmup=10)
    assert lr == pytest.approx(value, rel=1e-9, abs=1e-18)


def test_cion_weight_decay_and_momentum() -> None:
    assert warmup_cosine(50, epochs=100, base=0.04, final=0.4) == pytest.approx(0.22)
    assert warmup_cosine(99.999, epochs=100, base=0.04, final=0.4) == pytest.approx(0.3999999999111736, rel=1e-12)
    assert warmup_cosine(50, epochs=100, base=0.996, final=1.0) == pytest.approx(0.998)


def test_warmup_is_linear() -> None:
    values = [warmup_cosine(t, epochs=100, base=2.0, final=0.0, warmup=10) for t in (1, 2.5, 5)]
    assert values == pytest.approx([0.2, 0.5, 1.0])


@pytest.mark.parametrize(
    ("t", "multiple"),
    [(0, 0.01), (1, 0.0595), (10, 0.505), (19, 0.9505), (20, 0.9331), (60, 0.5010), (119, 0.00217), (120, 0.002)],
)
def test_transreid_table(t: int, multiple: float) -> None:
    assert transreid_lr(t, epochs=120, warmup=20, base=4e-4) / 4e-4 == pytest.approx(multiple, abs=6e-5)


def test_bias_groups_start_at_the_same_rate_and_peak_higher() -> None:
    at = [transreid_lr(t, epochs=120, warmup=20, base=1.0, group=2.0) for t in (0, 10, 60)]
    assert at[0] == 0.01
    assert at[1] == pytest.approx(0.01 + 10 * (2 - 0.01) / 20)
    assert at[2] == pytest.approx(0.002 + 0.5 * (2 - 0.002) * (1 + math.cos(math.pi / 2)))


def released_table(base: float, final: float, epochs: int, steps: int, warmup: int) -> np.ndarray:
    """The released code's table, as it makes it."""
    climb = np.linspace(0, base, warmup * steps)
    rest = np.arange(epochs * steps - len(climb))
    return np.concatenate([climb, final + 0.5 * (base - final) * (1 + np.cos(np.pi * rest / len(rest)))])


def test_released_table() -> None:
    lr = {"epochs": 100, "steps": 1000, "base": 1.875e-3, "final": 1e-6, "warmup": 10}
    measured = {0: 0, 1: 1.8751875e-7, 9_999: 1.875e-3, 10_000: 1.875e-3, 50_000: 1.1007083424739137e-3}
    measured |= {99_999: 1.000000570853087e-6, 104_321: 1.000000570853087e-6}  # the last entry, for ever
    for step, value in measured.items():
        assert released_cosine(step, **lr) == pytest.approx(value, rel=1e-7, abs=1e-18)
    table = released_table(0.3, 0.02, 7, 11, 2)
    ours = [released_cosine(i, epochs=7, steps=11, base=0.3, final=0.02, warmup=2) for i in range(77)]
    np.testing.assert_allclose(ours, table, atol=1e-15)


def test_teacher_temperature_rises_in_equal_steps() -> None:
    ours = [stepped(e, start=0.04, final=0.07, epochs=4) for e in range(7)]
    np.testing.assert_allclose(ours, [*np.linspace(0.04, 0.07, 4), 0.07, 0.07, 0.07])
    assert [stepped(e, start=0.04, final=0.07, epochs=n) for n in (0, 1) for e in (0, 5)] == [0.07] * 4
