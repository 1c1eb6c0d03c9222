"""Small data sets on disk, and the command called in this process."""

from __future__ import annotations

import shutil
from typing import NamedTuple

import pytest

from reidzoo.cli.main import main
from reidzoo.data import write_synthetic

SMALL = {"cameras": 3, "videos": 1, "tracklets": 1, "images": 2, "size": (64, 32)}


class Called(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Networks this small are faster on one thread, and much faster where other processes want the cores too."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capsys):
    """Call ``reidzoo`` with some words; return its exit code and what it printed."""

    def call(*words):
        code = main([str(word) for word in words])
        return Called(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """12 drawn people in the layout of Market-1501: half for training, half for query and gallery."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "people", identities=12, **SMALL)


@pytest.fixture(scope="session")
def crops(tmp_path_factory):
    """8 drawn people, one folder each, as a user's own images."""
    return write_synthetic(tmp_path_factory.mktemp("data") / "crops", identities=8, layout="folder", **SMALL)


@pytest.fixture
def damaged(crops, tmp_path):
    """A copy of `crops` with one image cut short; returns the folder and that image."""
    root = shutil.copytree(crops, tmp_path / "damaged")
    image = sorted(root.rglob("*.jpg"))[3]
    image.write_bytes(image.read_bytes()[:200])
    return root, image
