"""The main job by commands: pre-train, fine-tune, evaluate, extract; and what goes wrong."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import reidzoo
from reidzoo.data import load_dataset
from reidzoo.weights import read_weights

MODEL = "timm/test_vit"


def flags(text):
    return text.split()


COMMON = flags("--img-size 64x32 --num-workers 0 --device cpu")
PRETRAIN = [
    *flags("--epochs 2 --batch-size 8 --num-instances 2 --local-crops 1 --local-size 32x32"),
    *flags("--output-dim 64 --hidden-dim 32 --warmup-epochs 0"),
    *COMMON,
]
FINETUNE = [*flags("--epochs 1 --batch-size 8 --num-instances 2"), *COMMON]


@pytest.fixture(scope="module")
def job(tmp_path_factory, people, crops):
    """`pretrain` and then `finetune`, each once; their folders and what they printed."""
    import contextlib
    import io

    from reidzoo.cli.main import main

    root, out = tmp_path_factory.mktemp("runs"), {}
    commands = {
        "pretrain": ["pretrain", MODEL, f"folder:{crops}", "--output-dir", root / "pre", *PRETRAIN],
        "finetune": ["finetune", root / "pre", f"synthetic:{people}", "--output-dir", root / "fine", *FINETUNE],
    }
    for name, words in commands.items():
        with contextlib.redirect_stdout(io.StringIO()) as text:
            assert main([str(word) for word in words]) == 0
        out[name] = text.getvalue()
    return root, out


def test_pretrain_reports_and_says_what_is_next(job):
    root, out = job
    assert str(root / "pre") in out["pretrain"]
    header, _, row, *_ = out["pretrain"].splitlines()
    cells = dict(zip(header.split("  "), row.split(), strict=False))
    assert cells["epochs"] == "2"
    following = out["pretrain"].splitlines()[-1].split()
    assert following[1:4] == ["reidzoo", "finetune", str(root / "pre")]
    assert "64x32" in following  # the size that it was pre-trained for
    assert (root / "pre" / "curves.png").stat().st_size > 0


def test_flags_reach_the_run(job):
    root, _ = job
    run = json.loads((root / "pre" / "config.json").read_text())
    assert run["method"] == "cion"
    expected = {"epochs": 2, "batch_size": 8, "num_instances": 2, "img_size": [64, 32], "output_dim": 64}
    assert {k: run["config"][k] for k in expected} == expected
    assert run["config"]["teacher_momentum"] == 0.996  # not given: the default


def test_finetune_starts_from_the_pretrained_folder(job):
    root, out = job
    assert json.loads((root / "fine" / "config.json").read_text())["model"] == f"local-dir:{root / 'pre'}"
    assert "mAP" in out["finetune"].splitlines()[0]
    assert out["finetune"].splitlines()[-1].split()[1:4] == ["reidzoo", "evaluate", str(root / "fine")]


def test_evaluate_says_what_the_library_measures(cli, job, people, tmp_path):
    root, _ = job
    words = ["evaluate", root / "fine", f"synthetic:{people}", "--num-workers", 0, "--device", "cpu"]
    printed = json.loads(cli(*words, "--json").out)
    model = reidzoo.create_model(f"local-dir:{root / 'fine'}")
    result = reidzoo.evaluate(model, f"synthetic:{people}", num_workers=0, device="cpu")
    assert printed["mAP"] == pytest.approx(result.mAP, abs=1e-6)
    assert printed.keys() == result.to_dict().keys()

    called = cli(*words, "--output-dir", tmp_path / "report")
    assert result.table() in called.out
    assert json.loads((tmp_path / "report" / "metrics.json").read_text())["mAP"] == pytest.approx(result.mAP, abs=1e-6)
    from PIL import Image

    with Image.open(tmp_path / "report" / "ranking.png") as picture:
        assert picture.size[0] > 500

    without = json.loads(cli(*words, "--json", "--no-flip").out)
    again = reidzoo.evaluate(model, f"synthetic:{people}", num_workers=0, device="cpu", flip=False)
    assert without["mAP"] == pytest.approx(again.mAP, abs=1e-6)


def test_the_last_evaluation_of_a_run_is_what_evaluate_finds(cli, job, people):
    root, _ = job
    rows = [json.loads(line) for line in (root / "fine" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "mAP" in row][-1]
    words = ["evaluate", root / "fine" / "model.safetensors", f"synthetic:{people}", "--num-workers", 0, "--json"]
    assert json.loads(cli(*words).out)["mAP"] == pytest.approx(last["mAP"], abs=1e-6)


def test_extract_npy_and_npz(cli, job, people, crops, tmp_path):
    root, _ = job
    options = ["--num-workers", 0, "--device", "cpu"]
    called = cli("extract", root / "fine", crops, tmp_path / "f.npy", *options)
    assert called.out.split() == [str(tmp_path / name) for name in ("f.npy", "f.ids.csv", "f.json")]
    with (tmp_path / "f.ids.csv").open() as f:
        paths = [row["path"] for row in csv.DictReader(f)]
    assert paths == sorted(str(p) for p in crops.rglob("*.jpg"))
    features = np.load(tmp_path / "f.npy")
    model = reidzoo.create_model(f"local-dir:{root / 'fine'}")
    expected = reidzoo.extract_features(model, paths, num_workers=0, device="cpu")
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)

    assert (
        cli("extract", root / "fine", f"synthetic:{people}", tmp_path / "g.npz", "--split", "query", *options).code == 0
    )
    query = load_dataset(f"synthetic:{people}").query
    with np.load(tmp_path / "g.npz") as saved:
        assert saved["paths"].tolist() == list(query.path)
        np.testing.assert_array_equal(saved["pids"], query.pid)
        np.testing.assert_array_equal(saved["camids"], query.camid)
        assert saved["features"].shape == (len(query), model.embed_dim)
    assert not list(tmp_path.glob(".*"))


def test_a_run_goes_on_only_with_its_settings(cli, job, crops):
    root, _ = job
    words = ["pretrain", MODEL, f"folder:{crops}", "--output-dir", root / "pre", *PRETRAIN]
    called = cli(*words, "--output-dim", 128)
    assert called.code == 1
    assert "output_dim: 64 -> 128" in called.err
    assert "--overwrite" in called.err
    before = read_weights(root / "pre" / "model.safetensors").tensors
    assert cli(*words).code == 0  # finished already: nothing to do, the same network
    after = read_weights(root / "pre" / "model.safetensors").tensors
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


def test_a_run_s_config_is_a_config(cli, job, crops, tmp_path):
    root, _ = job
    config = root / "pre" / "config.json"
    words = ["pretrain", MODEL, f"folder:{crops}", "--output-dir", tmp_path / "again", "--config", config]
    assert cli(*words, "--epochs", 1).code == 0
    run = json.loads((tmp_path / "again" / "config.json").read_text())["config"]
    assert run == {**json.loads(config.read_text())["config"], "epochs": 1}
    called = cli("finetune", MODEL, f"folder:{crops}", "--output-dir", tmp_path / "f", "--config", config)
    assert called.code == 1
    assert "is of method 'cion'" in called.err


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"epohcs": 3}', "Did you mean 'epochs'"), ("[1]", "no JSON object"), ("{epochs: 3}", "is not JSON")],
)
def test_bad_config_files(cli, people, tmp_path, content, message):
    (tmp_path / "c.json").write_text(content)
    words = ["--output-dir", tmp_path / "run", "--config", tmp_path / "c.json"]
    called = cli("finetune", MODEL, f"synthetic:{people}", *words)
    assert called.code == 1
    assert message in called.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("model", "data", "flags", "words"),
    [
        ("resnt18", "synthetic:{people}", [], ["no model 'resnt18'", "'resnet18'"]),
        ("timm/resnt18", "synthetic:{people}", [], ["'resnt18'", "'resnet18'"]),
        ("runs/none", "synthetic:{people}", [], ["no run folder or weights file runs/none"]),
        (MODEL, "synthetc:{people}", [], ["no data set 'synthetc'", "'synthetic'"]),
        (MODEL, "folder:{people}/nowhere", [], ["{people}/nowhere", "<root>/<person>/<image>.jpg"]),
        (MODEL, "synthetic:{people}", ["--epochs", 0], ["epochs is 0"]),
        (MODEL, "synthetic:{people}", ["--num-instances", 3], ["batch_size 8 is not a multiple of num_instances 3"]),
    ],
)
def test_bad_input(cli, people, tmp_path, model, data, flags, words):
    out = tmp_path / "run"
    called = cli("finetune", model, data.format(people=people), "--output-dir", out, *FINETUNE, *flags)
    assert called.code == 1
    for word in words:
        assert word.format(people=people) in called.err
    assert not (out / "model.safetensors").exists()


def test_a_folder_of_other_things_is_left_alone(cli, people, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for flags in ([], ["--overwrite"]):
        called = cli("finetune", MODEL, f"synthetic:{people}", "--output-dir", tmp_path, *FINETUNE, *flags)
        assert called.code == 1
        assert str(tmp_path) in called.err
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_evaluation_needs_query_and_gallery(cli, job, crops):
    root, _ = job
    called = cli("evaluate", root / "fine", f"folder:{crops}")
    assert called.code == 1
    assert "no query images" in called.err
    assert str(crops) in called.err


def test_a_corrupt_image_stops_the_run_before_it_starts(cli, damaged, tmp_path):
    root, image = damaged
    words = ["pretrain", MODEL, f"folder:{root}", "--output-dir", tmp_path / "run", *PRETRAIN, "--epochs", 1]
    called = cli(*words)
    assert called.code == 1
    assert str(image) in called.err
    assert "--skip-corrupt" in called.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()

    called = cli(*words, "--skip-corrupt")
    assert called.code == 0
    assert "left out 1 of" in called.err
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_extract_names_a_corrupt_image(cli, job, damaged, tmp_path):
    root, image = damaged
    called = cli("extract", job[0] / "fine", root, tmp_path / "f.npy", "--num-workers", 0)
    assert called.code == 1
    assert str(image) in called.err
    assert not (tmp_path / "f.npy").exists()


@pytest.mark.parametrize(
    ("images", "out", "message"),
    [
        ("{tmp}/nowhere", "f.npy", "no image or folder"),
        ("{tmp}/empty", "f.npy", "holds no image"),
        ("{crops}", "f.txt", "ends in .npy or .npz"),
    ],
)
def test_extract_without_images(cli, job, crops, tmp_path, images, out, message):
    (tmp_path / "empty").mkdir()
    called = cli("extract", job[0] / "fine", images.format(tmp=tmp_path, crops=crops), tmp_path / out)
    assert called.code == 1
    assert message in called.err


def test_random_weights_are_announced(cli, people):
    options = ["--num-workers", 0, "--img-size", "64x32", "--device", "cpu", "--json"]
    first = cli("evaluate", MODEL, f"synthetic:{people}", *options)
    assert first.code == 0
    assert "random weights" in first.err
    assert cli("evaluate", MODEL, f"synthetic:{people}", *options).out == first.out  # and the same ones each time


def test_published_weights_that_are_not_here(cli, people, monkeypatch, tmp_path):
    """First the terms, then where to get the file."""
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path))
    command = ("evaluate", "resnet50_ibn", f"synthetic:{people}", "--pretrained")
    called = cli(*command)
    assert called.code == 1
    assert "reidzoo license accept reidzoo" in called.err
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    called = cli(*command)
    assert called.code == 1
    assert "reidzoo weights import ResNet50_IBN.pth" in called.err


def test_ctrl_c_leaves_a_run_that_goes_on(cli, crops, tmp_path):
    program = "import sys; from reidzoo.cli.main import main; sys.exit(main())"
    out = tmp_path / "run"
    words = ["pretrain", MODEL, f"folder:{crops}", "--output-dir", str(out), *PRETRAIN, "--epochs", "20"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell, such as a CI, ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 300
    while not (out / "checkpoints" / "last.pt").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "reidzoo: interrupted. The same command goes on where it stopped."
    assert "Traceback" not in err
    assert not list(out.rglob("*.tmp"))
    assert not (out / "model.safetensors").exists()

    called = cli(*words)
    assert called.code == 0
    assert "going on from step" in called.err
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines() if '"t"' in line]
    assert steps == list(range(1, len(steps) + 1))


def test_the_same_seed_gives_the_same_numbers(cli, job, crops, tmp_path):
    root, _ = job
    again = cli("pretrain", MODEL, f"folder:{crops}", "--output-dir", tmp_path / "again", *PRETRAIN)
    assert again.code == 0
    logs = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (root / "pre", tmp_path / "again")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == losses[1]
