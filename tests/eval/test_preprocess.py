from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from reidzoo.errors import ConfigError, UnknownModelError
from reidzoo.eval import create_transform
from reidzoo.models import create_model, model_info

GREY = Image.fromarray(np.full((100, 50, 3), 127, np.uint8))


def test_a_model_brings_its_own_statistics_and_size(model):
    x = create_transform(model)(GREY)
    assert x.shape == (3, 64, 32)
    torch.testing.assert_close(x, torch.full((3, 64, 32), (127 / 255 - 0.5) / 0.5))


@pytest.mark.parametrize("kind", ["name", "spec", "backbone", "with head"])
def test_models_of_the_zoo(kind):
    given = {
        "name": lambda: "ghostnet_0_5",
        "spec": lambda: model_info("ghostnet_0_5"),
        "backbone": lambda: create_model("ghostnet_0_5"),
        "with head": lambda: create_model("ghostnet_0_5", head="bnneck", num_classes=5),
    }[kind]()
    x = create_transform(given)(GREY)
    assert x.shape == (3, 256, 128)
    spec = model_info("ghostnet_0_5")
    expected = (127 / 255 - np.array(spec.mean)) / np.array(spec.std)
    np.testing.assert_allclose(x[:, 0, 0].numpy(), expected, rtol=1e-5)


def test_size_and_training(model):
    assert create_transform(model, img_size=48)(GREY).shape == (3, 48, 48)
    train = create_transform(model, training=True, img_size=(32, 16))
    assert train(GREY, np.random.default_rng(0)).shape == (3, 32, 16)


def test_bad_input(model):
    with pytest.raises(UnknownModelError, match="ghostnet_0_5"):
        create_transform("ghostnet_05")
    with pytest.raises(ConfigError, match="img_size"):
        create_transform(model, img_size=(0, 10))
    with pytest.raises(ConfigError, match="Linear has no pretrained_cfg"):
        create_transform(nn.Linear(1, 1))
