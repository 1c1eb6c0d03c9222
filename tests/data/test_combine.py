from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reidzoo.data import Records, ReIDDataset, load_dataset, write_synthetic
from reidzoo.data.combine import as_training, combine, concatenate
from reidzoo.data.datasets._spec import summands
from reidzoo.data.domain_sampler import DomainSampler
from reidzoo.errors import DataError, UnknownDatasetError

NAMES = ["market1501", "msmt17", "folder", "csv", "cuhk03", "cuhk02"]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("two")
    market = write_synthetic(base / "m+1", identities=6, images=2, cameras=3, size=(24, 16), junk=4, distractors=3)
    crops = write_synthetic(base / "crops", layout="folder", identities=5, images=2, cameras=3, size=(24, 16), seed=1)
    return market, crops


def made(name: str, pid: list[int], camid: list[int], **extras: list[int]) -> ReIDDataset:
    train = Records.from_columns([f"/{name}/{i}.jpg" for i in range(len(pid))], pid, camid, **extras)
    return ReIDDataset(name, Path("/", name), train, Records.empty(), Records.empty())


def test_combined_identities_and_cameras_are_disjoint() -> None:
    a = made("a", [7, 7, 3, 1501], [0, 5, 5, 0], video=[1, 2, 3, 4])
    b = made("b", [3, 0, 3], [0, -1, 2])
    joined = combine([a, b])
    assert joined.name == "a+b"
    assert list(joined.train.path) == [*a.train.path, *b.train.path]
    assert joined.train.pid.tolist() == [2, 2, 1, 3, 5, 4, 5]  # in the order of the pids; 0 stays free
    assert joined.train.camid.tolist() == [0, 1, 1, 0, 2, -1, 3]  # an unknown camera stays unknown
    assert joined.train.extras.keys() == {"domain"}
    assert joined.train.extras["domain"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert joined.train.extras["domain"].dtype == np.int64
    assert len(joined.query) == len(joined.gallery) == 0


def test_combining_three_is_not_combining_pairs() -> None:
    parts = [made(name, [1, 2], [0, 1]) for name in "abc"]
    train = combine(parts).train
    assert train.extras["domain"].tolist() == [0, 0, 1, 1, 2, 2]
    assert train.pid.tolist() == [1, 2, 3, 4, 5, 6]
    assert train.camid.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_data_set_without_training_images_cannot_be_combined() -> None:
    with pytest.raises(DataError, match=r"b at /b has no training images.*b@all"):
        combine([made("a", [1], [0]), made("b", [], [])])


def test_sums_of_names_are_loaded(two: tuple[Path, Path]) -> None:
    market, crops = two
    data = load_dataset(f"market1501:{market}+folder:{crops}")  # the first path holds a + itself
    alone = load_dataset(f"market1501:{market}"), load_dataset(f"folder:{crops}")
    assert data.name == "market1501+folder"
    assert data.root == market.parent
    assert list(data.train.path) == [*alone[0].train.path, *alone[1].train.path]
    assert data.train.num_pids == sum(part.train.num_pids for part in alone)
    assert data.train.num_cams == sum(part.train.num_cams for part in alone)
    assert "train" in data.summary()
    for spec in ("market1501+mst17", f"mst17+folder:{crops}"):
        with pytest.raises(UnknownDatasetError, match=r"no data set 'mst17'\. Did you mean 'msmt17'"):
            load_dataset(spec)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("market1501", ["market1501"]),
        ("market1501+msmt17@train+cuhk02", ["market1501", "msmt17@train", "cuhk02"]),
        ("cuhk03+cuhk02:/x+msmt17:/y", ["cuhk03", "cuhk02:/x", "msmt17:/y"]),
        ("folder:/a+b/c++folder:/d", ["folder:/a+b/c+", "folder:/d"]),
        ("folder:/a+folders/b", ["folder:/a+folders/b"]),  # no name of a data set, only its beginning
        ("csv:/a+csv", ["csv:/a", "csv"]),
        ("msmt17:/x+market1501+cuhk02", ["msmt17:/x", "market1501", "cuhk02"]),
        ("nothing+market1501", ["nothing", "market1501"]),
        ("/data/a+folder:/b", ["/data/a+folder:/b"]),  # a bare path is an error, and said with all of it
    ],
)
def test_where_a_sum_is_split(spec: str, parts: list[str]) -> None:
    assert summands(spec, NAMES) == parts


def test_a_path_that_is_there_is_not_split(tmp_path: Path) -> None:
    (folder := tmp_path / "a+folder").mkdir()
    (file := tmp_path / "x+csv:y.csv").touch()
    assert summands(f"folder:{folder}", NAMES) == [f"folder:{folder}"]
    assert summands(f"csv:{file}+market1501", NAMES) == [f"csv:{file}", "market1501"]
    assert summands(f"folder:{folder}+folder:{folder}", NAMES) == [f"folder:{folder}"] * 2


def test_all_splits_for_training(two: tuple[Path, Path]) -> None:
    data = load_dataset(f"market1501:{two[0]}")
    train = as_training(data)
    assert len(train) == len(data.train) + len(data.query) + int((data.gallery.pid > 0).sum())
    assert train.pid.min() == 1
    assert train.num_pids == 6
    whole = load_dataset(f"market1501@all:{two[0]}")
    assert whole.train == train
    assert len(whole.query) == len(whole.gallery) == len(whole.multi_query) == 0
    joined = load_dataset(f"market1501@all:{two[0]}+folder:{two[1]}")
    assert joined.train.num_pids == 6 + 5


def test_all_splits_where_0_is_a_person() -> None:
    """VIPeR's first person is 000: only where no query has it, 0 is a distractor."""
    one = Records.from_columns(["/q.jpg", "/r.jpg"], [0, 4], [0, 0])
    gallery = Records.from_columns(["/g.jpg", "/h.jpg", "/j.jpg"], [0, 4, -1], [1, 1, 1])
    data = ReIDDataset("x", Path("/"), Records.empty(), one, gallery)
    assert as_training(data).pid.tolist() == [0, 4, 0, 4]
    assert as_training(ReIDDataset("x", Path("/"), Records.empty(), one.select([1]), gallery)).pid.tolist() == [4, 4]


def test_concatenated_extras_are_those_that_all_have() -> None:
    a = made("a", [1], [0], video=[5], frame=[6]).train
    b = made("b", [2], [0], frame=[7], tracklet=[8]).train
    joined = concatenate([a, Records.empty(), b])  # an empty split has no columns to ask for
    assert {name: column.tolist() for name, column in joined.extras.items()} == {"frame": [6, 7]}
    assert concatenate([Records.empty()]) == Records.empty()


def test_domains_of_a_sum_are_balanced(two: tuple[Path, Path]) -> None:
    train = load_dataset(f"market1501:{two[0]}+folder:{two[1]}").train
    sampler = DomainSampler(train.pid, train.extras["domain"], batch_size=8, num_instances=2)
    domains = train.extras["domain"][sampler.epoch(0)[..., 0]]
    assert (domains == [0, 0, 0, 0, 1, 1, 1, 1]).all()


def test_training_on_a_sum(two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import reidzoo

    result = reidzoo.finetune(
        "timm/test_resnet",
        f"market1501:{two[0]}+folder:{two[1]}",
        output_dir=tmp_path / "run",
        epochs=1,
        batch_size=8,
        img_size=(32, 16),
        num_workers=0,
    )
    assert len(result.history) == 1
    assert result.metrics == {}  # nothing to test with
