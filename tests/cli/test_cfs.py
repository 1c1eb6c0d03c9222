"""`reidzoo cfs`, from two run folders to a list, and the list into `pretrain`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from reidzoo.data import load_dataset, write_synthetic
from reidzoo.data.ranked_list import read_name_list
from reidzoo.training.labels.cfs import cfs_scores

MODEL = "timm/test_vit"


def flags(text):
    return text.split()


COMMON = flags("--img-size 64x32 --num-workers 0 --device cpu --epochs 1 --batch-size 8 --num-instances 2")
PRETRAIN = [*COMMON, *flags("--local-crops 1 --local-size 32x32 --output-dim 64 --hidden-dim 32 --warmup-epochs 0")]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Drawn people in the layout of CION-AL."""
    root = tmp_path_factory.mktemp("pool") / "cion"
    return write_synthetic(
        root, layout="cion_al", identities=8, cameras=2, videos=1, tracklets=1, images=4, size=(64, 32)
    )


@pytest.fixture
def runs(cli, people, pool, tmp_path):
    """Folders of a pre-training and of a fine-tuning that began there."""
    assert cli("pretrain", MODEL, f"cion_al:{pool}", "--output-dir", tmp_path / "pre", *PRETRAIN).code == 0
    assert (
        cli("finetune", tmp_path / "pre", f"synthetic:{people}", "--output-dir", tmp_path / "fine", *COMMON).code == 0
    )
    return tmp_path / "pre", tmp_path / "fine"


def test_from_two_runs_to_a_third(cli, runs, pool, tmp_path):
    source, target = runs
    out, words = tmp_path / "out", ["--num-workers", 0, "--device", "cpu"]
    called = cli("cfs", f"cion_al:{pool}", "--source", source, "--target", target, out, *words)
    assert called.code == 0, called.err
    data = load_dataset(f"cion_al:{pool}")
    expected = cfs_scores(source, target, data, num_workers=0, device="cpu")
    with np.load(out / "cfs.npz") as saved:
        assert [str(pool / name) for name in saved["names"]] == list(data.train.path)
        np.testing.assert_array_equal(saved["scores"], expected)
    best_first = [data.train.path[i] for i in np.argsort(-expected, kind="stable")]
    for suffix in (".pkl", ".json", ".txt"):
        assert [str(pool / name) for name in read_name_list(out / f"CFS_list{suffix}")] == best_first
    header, _, row, *_ = called.out.splitlines()
    assert header.split()[0] == "images"
    assert row.split()[0] == str(len(data.train))
    assert row.split()[-1] == f"{expected.max():.4f}"

    # What it says to type next works.
    following = called.out.splitlines()[-1].split()[2:]
    following[following.index("MODEL")], following[following.index("DIR")] = MODEL, tmp_path / "third"
    called = cli(*following, *PRETRAIN)
    assert called.code == 0, called.err
    assert json.loads((tmp_path / "third" / "config.json").read_text())["images"] == len(data.train) // 2

    # Again: nothing to compute. Another network, or somebody else's list: not without a word.
    assert cli("cfs", f"cion_al:{pool}", "--source", source, "--target", target, out, *words).code == 0
    called = cli("cfs", f"cion_al:{pool}", "--source", source, "--target", tmp_path / "third", out, *words)
    assert called.code == 1
    assert "holds other features" in called.err
    elsewhere = tmp_path / "LUP"
    elsewhere.mkdir()
    (elsewhere / "CFS_list.pkl").write_bytes(b"precious")
    called = cli("cfs", f"cion_al:{pool}", "--source", source, "--target", target, elsewhere, *words)
    assert called.code == 1
    assert "holds CFS_list.pkl from elsewhere" in called.err
    assert (elsewhere / "CFS_list.pkl").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["synthetic:{people}", "{tmp}/out"], 2, "required: --source, --target"),
        (["synthetic:{people}", "{tmp}/out", "--source", MODEL, "--target", MODEL], 1, "have the same weights"),
        (
            ["synthetic:{people}", "{tmp}/out", "--source", MODEL, "--target", "timm/test_resnet"],
            1,
            "are different networks",
        ),
        (["synthetc:{people}", "{tmp}/out", "--source", MODEL, "--target", MODEL], 1, "'synthetic'"),
        (["synthetic:{people}", "{tmp}/out", "--source", "runs/none", "--target", MODEL], 1, "no run folder"),
        (["synthetic:{people}", "{tmp}/out", "--source", MODEL, "--traget", MODEL], 2, "Did you mean --target?"),
    ],
)
def test_what_it_refuses(cli, people, tmp_path, words, code, message):
    called = cli("cfs", *(word.format(people=people, tmp=tmp_path) for word in words))
    assert called.code == code
    assert message in called.err
    assert not (tmp_path / "out").exists()
