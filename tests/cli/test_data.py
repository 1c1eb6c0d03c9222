"""`data synth`, `check`, `show` and `extract`."""

from __future__ import annotations

import json
import os
import shutil
import zipfile

import pytest
from PIL import Image

from reidzoo.data import load_dataset
from reidzoo.data._layouts import LAYOUTS


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_synth_in_every_layout(cli, tmp_path, layout):
    """Without naming cameras, and read by the name that it says."""
    called = cli("data", "synth", tmp_path / "out", "--identities", 3, "--layout", layout)
    assert called.code == 0, called.err
    checked = cli("data", "check", called.out.split()[-1])
    assert checked.code == 0, checked.out
    assert "0 errors, " in checked.out  # CUHK02 misses two of its five camera pairs with so few people


def test_synth_refuses_what_it_cannot_do(cli, tmp_path, people):
    assert "'market1501'" in cli("data", "synth", tmp_path / "x", "--layout", "market").err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    called = cli("data", "synth", tmp_path / "mine", "--identities", 4)
    assert called.code == 1
    assert str(tmp_path / "mine") in called.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_check_of_good_data(cli, people):
    called = cli("data", "check", f"synthetic:{people}")
    assert called.code == 0
    data = load_dataset(f"synthetic:{people}")
    lines = [line.split() for line in called.out.splitlines()]
    assert ["train", str(len(data.train)), str(data.train.num_pids), str(data.train.num_cams), "0", "0"] in lines
    assert ["gallery", str(len(data.gallery)), str(data.gallery.num_pids), "3", "12", "12"] in lines
    assert "0 errors, 0 warnings. Images were not decoded: --decode does that." in called.out
    called = cli("data", "check", f"synthetic:{people}", "--decode")
    assert called.code == 0
    assert "All images can be decoded." in called.out


def test_check_names_a_damaged_image(cli, damaged):
    root, image = damaged
    assert cli("data", "check", f"folder:{root}").code == 0  # its name is all right
    called = cli("data", "check", f"folder:{root}", "--decode")
    assert called.code == 1
    assert str(image) in called.out
    assert "All images can be decoded" not in called.out


def test_check_shows_a_few_of_many(cli, crops, tmp_path):
    root = shutil.copytree(crops, tmp_path / "crops")
    images = sorted(root.rglob("*.jpg"))
    for image in images[:23]:
        image.write_bytes(image.read_bytes()[:300] + image.name.encode())
    called = cli("data", "check", f"folder:{root}", "--decode")
    assert called.out.count("cannot be decoded: ") == 20
    assert "and 3 more of this kind: --json has all" in called.out
    report = json.loads(cli("data", "check", f"folder:{root}", "--decode", "--json").out)
    assert [f["paths"] for f in report["findings"]] == [[str(image)] for image in images[:23]]


def test_check_as_json(cli, people, damaged):
    called = cli("data", "check", f"synthetic:{people}", "--json")
    report = json.loads(called.out)
    assert (called.code, report["ok"], report["findings"], report["decoded"]) == (0, True, [], False)
    assert report["splits"]["train"]["images"] == len(load_dataset(f"synthetic:{people}").train)
    root, image = damaged
    called = cli("data", "check", f"folder:{root}", "--json", "--decode")
    report = json.loads(called.out)
    assert (called.code, report["ok"]) == (1, False)
    assert [(f["severity"], f["check"], f["paths"]) for f in report["findings"]] == [("error", "image", [str(image)])]
    called = cli("data", "check", f"folder:{root}/nowhere", "--json")
    report = json.loads(called.out)
    assert (called.code, report["ok"], called.err) == (1, False, "")
    assert f"{root}/nowhere" in report["findings"][0]["text"]


def test_check_is_strict_on_request(cli, people, tmp_path):
    root = shutil.copytree(people, tmp_path / "people")
    (root / "query" / "IMG_1.jpg").touch()
    called = cli("data", "check", f"market1501:{root}")
    assert called.code == 0
    assert called.out.count("IMG_1.jpg") == 1
    assert "IMG_1.jpg" not in called.err
    assert "0 errors, 1 warning." in called.out
    assert cli("data", "check", f"market1501:{root}", "--strict").code == 1
    assert cli("data", "check", f"synthetic:{people}", "--strict").code == 0


def test_check_prints_names_that_are_no_unicode(cli, people, tmp_path):
    root = shutil.copytree(people, tmp_path / "people")
    image = min((root / "query").iterdir())
    odd = os.fsencode(image.with_suffix("")) + b"_\xff.jpg"
    os.rename(image, odd)
    (root / "bounding_box_test" / "x.jpg").write_bytes(b"")
    open(odd, "wb").close()
    called = cli("data", "check", f"market1501:{root}", "--decode")
    assert called.code == 1
    assert "_\\udcff.jpg" in called.out
    assert cli("data", "check", f"market1501:{root}", "--json").code == 1


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
    assert "1 persons of the training images are also in the test images" in called.out


def test_show(cli, people, tmp_path):
    called = cli("data", "show", f"synthetic:{people}", tmp_path / "sheet.png", "--identities", 4, "--images", 3)
    assert (called.code, called.out) == (0, f"wrote {tmp_path / 'sheet.png'}\n")
    small = Image.open(tmp_path / "sheet.png").size
    cli("data", "show", f"synthetic:{people}", tmp_path / "sheet.png", "--identities", 8, "--images", 3)
    assert Image.open(tmp_path / "sheet.png").height > small[1]
    assert "expected a picture's name" in cli("data", "show", f"synthetic:{people}", tmp_path / "sheet").err


def test_extract(cli, people, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in people.rglob("*.*"):
            file.write(path, f"Market-1501/{path.relative_to(people)}")
    called = cli("data", "extract", tmp_path / "set.zip", tmp_path / "market")
    assert called.code == 0
    assert f"unpacked to {tmp_path / 'market'}, which holds Market-1501" in called.out
    assert cli("data", "check", f"market1501:{tmp_path / 'market'}").code == 0  # the folder inside is found
    assert "exists already" in cli("data", "extract", tmp_path / "set.zip", tmp_path / "market").err
    called = cli("data", "extract", tmp_path / "set.zip", tmp_path / "other", "--max-gb", "0.00001")
    assert called.code == 1
    assert "more than 10,000 bytes" in called.err
    assert not (tmp_path / "other").exists()


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
