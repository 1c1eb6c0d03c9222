from __future__ import annotations

import json

import pytest

from reidzoo.errors import ConfigError, UnknownMethodError
from reidzoo.training.configs import BaselineConfig, CIONConfig, TransReIDConfig, make_config
from reidzoo.training.methods import FINETUNE, PRETRAIN


def test_defaults_are_the_published_settings() -> None:
    cion = CIONConfig()
    assert (cion.epochs, cion.batch_size, cion.local_crops, cion.output_dim) == (100, 120, 8, 65336)
    assert (cion.lr, cion.min_lr, cion.warmup_epochs, cion.clip_grad) == (5e-4, 1e-6, 10, 3.0)
    assert (cion.weight_decay, cion.weight_decay_end, cion.teacher_momentum) == (0.04, 0.4, 0.996)
    assert cion.num_instances == ((0, 2), (40, 4), (60, 6), (80, 8))
    transreid = TransReIDConfig()
    assert (transreid.epochs, transreid.batch_size, transreid.num_instances) == (120, 64, 4)
    assert (transreid.lr, transreid.weight_decay, transreid.bias_lr_factor) == (4e-4, 1e-4, 2)
    assert (transreid.mean, transreid.std, transreid.warmup_epochs) == ((0.5,) * 3, (0.5,) * 3, 20)


def test_unknown_field_names_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"no field 'batchsize'.*'batch_size'"):
        make_config(CIONConfig, None, {"batchsize": 4})


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as e:
        CIONConfig(epochs=0, precision="int8", local_scale=(0.5, 0.1))
    for part in ("epochs is 0", "precision is 'int8'", "expected one of auto, fp32", "local_scale"):
        assert part in str(e.value)


@pytest.mark.parametrize("config", [CIONConfig, TransReIDConfig])
def test_batch_must_hold_whole_identities(config: type) -> None:
    with pytest.raises(ConfigError, match="not a multiple of num_instances 8: choose a multiple of 8, such as 16"):
        config(batch_size=12, num_instances=8)
    with pytest.raises(ConfigError, match="micro_batch 6 is not a multiple of num_instances 4"):
        config(batch_size=24, micro_batch=6, num_instances=4)


@pytest.mark.parametrize("name", ["batch_size", "micro_batch"])
def test_batches_of_one_image_cannot_be_normalised(name: str) -> None:
    with pytest.raises(ConfigError, match=f"BaselineConfig: {name} is 1, expected at least 2: the batch norm"):
        BaselineConfig(**{name: 1})


def test_every_k_of_the_schedule_is_checked() -> None:
    with pytest.raises(ConfigError, match="not a multiple of num_instances 6"):
        CIONConfig(batch_size=64)


def test_json_round_trip() -> None:
    config = CIONConfig(batch_size=24, img_size=(64, 32))
    assert make_config(CIONConfig, json.loads(config.to_json()), {}) == config
    assert make_config(CIONConfig, config, {"epochs": 3}).epochs == 3


def test_config_of_another_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="TransReIDConfig; this method takes a CIONConfig"):
        make_config(CIONConfig, TransReIDConfig(), {})  # type: ignore[arg-type]


def test_unknown_method_names_the_closest() -> None:
    with pytest.raises(UnknownMethodError, match=r"'scion'.*Did you mean 'cion'"):
        PRETRAIN["scion"]
    with pytest.raises(UnknownMethodError, match="Known: baseline, bot, mgn, pcb, transreid"):
        FINETUNE["pcbb"]
