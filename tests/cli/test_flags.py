"""Flags from config dataclasses: every field, every type, there and back."""

from __future__ import annotations

from dataclasses import fields

import pytest

from reidzoo.cli._flags import add_config_flags, show, typed_settings
from reidzoo.cli._parser import Parser
from reidzoo.training.configs import make_config
from reidzoo.training.methods import FINETUNE, PRETRAIN

METHODS = [(name, registry[name].config) for registry in (PRETRAIN, FINETUNE) for name in registry]


def parse(config, *words):
    parser = Parser(prog="test")
    add_config_flags(parser, config, "method")
    return typed_settings(parser.parse_args(words), config)


@pytest.mark.parametrize(("name", "config"), METHODS)
def test_no_flag_no_setting(name, config):
    assert parse(config) == {}


@pytest.mark.parametrize(("name", "config"), METHODS)
def test_every_default_survives_being_typed(name, config):
    """The flag of each field, given the default as the help shows it, is the default again."""
    for field in fields(config):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            words = [flag if field.default else flag.replace("--", "--no-", 1)]
        else:
            words = [flag, show(field.default)]
        assert parse(config, *words) == {field.name: field.default}


@pytest.mark.parametrize(("name", "config"), METHODS)
def test_help_says_meaning_default_and_choices_of_every_field(name, config, capsys):
    parser = Parser(prog="test")
    add_config_flags(parser, config, name)
    text = " ".join(parser.format_help().split())
    assert f"settings of {name}:" in text
    for field in fields(config):
        assert "--" + field.name.replace("_", "-") in text
        assert field.metadata["help"] in text
        for choice in field.metadata["choices"] or ():
            assert choice in text
    height, width = config().img_size
    assert f"{height}x{width}" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--img-size", "384x128"], {"img_size": (384, 128)}),
        (["--img-size=128X64"], {"img_size": (128, 64)}),
        (["--global-scale", "0.4,1"], {"global_scale": (0.4, 1.0)}),
        (["--num-instances", "4"], {"num_instances": 4}),
        (["--num-instances", "0:2,40:4"], {"num_instances": ((0, 2), (40, 4))}),
        (["--num-instances", "0:6"], {"num_instances": ((0, 6),)}),
        (["--overwrite"], {"overwrite": True}),
        (["--no-overwrite"], {"overwrite": False}),
        (["--lr", "1e-3", "--epochs", "3"], {"lr": 1e-3, "epochs": 3}),
        (["--precision", "bf16"], {"precision": "bf16"}),
    ],
)
def test_values(words, expected):
    assert parse(PRETRAIN["cion"].config, *words) == expected


def test_settings_make_a_config():
    cls = FINETUNE["transreid"].config
    typed = parse(cls, "--mean", "0.485,0.456,0.406", "--img-size", "128x64")
    config = make_config(cls, {"epochs": 7, "img_size": [64, 32]}, typed)
    assert (config.epochs, config.img_size, config.mean) == (7, (128, 64), (0.485, 0.456, 0.406))
