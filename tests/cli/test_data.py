"""`data synth` and `data check`."""

from __future__ import annotations

import shutil

import pytest

from reidzoo.data import load_dataset


@pytest.mark.parametrize(("layout", "name"), [("market1501", "synthetic"), ("folder", "folder")])
def test_synth_writes_what_the_reader_reads(cli, tmp_path, layout, name):
    words = ["--identities", 4, "--cameras", 2, "--seed", 3, "--layout", layout]
    called = cli("data", "synth", tmp_path / "out", *words)
    assert called.code == 0
    spec = called.out.split()[-1]
    assert spec == f"{name}:{tmp_path / 'out'}"
    data = load_dataset(spec)
    assert data.summary() in called.out
    assert len(data.train) > 0
    again = cli("data", "synth", tmp_path / "again", *words)
    assert again.code == 0
    files = [
        sorted(p.relative_to(root) for p in root.rglob("*.jpg")) for root in (tmp_path / "out", tmp_path / "again")
    ]
    assert files[0] == files[1]
    assert all((tmp_path / "out" / f).read_bytes() == (tmp_path / "again" / f).read_bytes() for f in files[0])


def test_synth_refuses_what_it_cannot_do(cli, tmp_path, people):
    assert "Did you mean 'market1501'?" in cli("data", "synth", tmp_path / "x", "--layout", "market").err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    called = cli("data", "synth", tmp_path / "mine", "--identities", 4)
    assert called.code == 1
    assert str(tmp_path / "mine") in called.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_check_of_good_data(cli, people):
    called = cli("data", "check", f"synthetic:{people}")
    assert called.code == 0
    assert load_dataset(f"synthetic:{people}").summary() in called.out
    assert "All images can be decoded." in called.out


def test_check_names_a_damaged_image(cli, damaged):
    root, image = damaged
    called = cli("data", "check", f"folder:{root}")
    assert called.code == 1
    assert str(image) in called.out


def test_check_finds_labels_that_would_lie(cli, tmp_path, people):
    """A person of the training images among the queries, and one whose gallery images are missing."""
    data = load_dataset(f"synthetic:{people}")
    root = tmp_path / "own"
    for split, pid, as_split in [("train", data.train.pid[0], "query"), ("train", data.train.pid[0], "train")]:
        records = getattr(data, split)
        target = root / as_split / str(pid)
        target.mkdir(parents=True)
        shutil.copy(records.path[int((records.pid == pid).argmax())], target)
    stranger = root / "gallery" / "999"
    stranger.mkdir(parents=True)
    shutil.copy(data.gallery.path[0], stranger)
    called = cli("data", "check", f"folder:{root}")
    assert called.code == 1
    assert "1 of 1 persons are not in the gallery" in called.out
    assert "1 persons are also in the query images" in called.out


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("makret1501", ["no data set 'makret1501'", "'market1501'"]),
        ("market1501:{tmp}/nowhere", ["{tmp}/nowhere", "bounding_box_train"]),
        ("folder:{tmp}/nowhere", ["{tmp}/nowhere", "<root>/<person>/<image>.jpg"]),
        ("folder:{tmp}/empty", ["{tmp}/empty", "<root>/<person>/<image>.jpg"]),
        ("csv:{tmp}/nowhere.csv", ["{tmp}/nowhere.csv", "path,pid,split"]),
    ],
)
def test_missing_data_says_where_and_what_was_expected(cli, tmp_path, spec, words):
    (tmp_path / "empty").mkdir()
    called = cli("data", "check", spec.format(tmp=tmp_path))
    assert called.code == 1
    for word in words:
        assert word.format(tmp=tmp_path) in called.err
