"""The local store: what is imported, what is refused, and that nothing is ever half there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch

import reidzoo
from reidzoo.errors import CheckpointError, ConfigError, StoreError, WeightsNotFoundError
from reidzoo.models import to_official
from reidzoo.weights import import_official, licenses, read_metadata, store

NAME, FILE = "ghostnet_0_5", "GhostNet_0_5.pth"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A store of its own for each test, under an accepted licence."""
    monkeypatch.setenv("REIDZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REIDZOO_ACCEPT_LICENSE", "reidzoo")
    return tmp_path / "home"


@pytest.fixture
def official_file(tmp_path, fill, official_container):
    """official_file(name, file, seed=0, arch=None): a checkpoint like the released ones, with synthetic numbers."""

    def write(name: str, file: str, seed: int = 0, arch: str | None = None, change=lambda c: c) -> Path:
        with torch.device("meta"):
            model = reidzoo.create_model(name)
        state = {
            key: fill(key, tuple(t.shape), seed) if t.is_floating_point() else torch.zeros(t.shape, dtype=t.dtype)
            for key, t in to_official(model.state_dict(), model).items()
        }
        prefix = "module.backbone." if "batchnorm" in reidzoo.model_info(name).tags else "backbone."
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(change(official_container(state, prefix, arch or name)), path)
        return path

    return write


def same(a, b):
    left, right = a.state_dict(), b.state_dict()
    return set(left) == set(right) and all(torch.equal(left[k], right[k]) for k in left)


def test_import_then_two_lines_without_the_file(official_file, home):
    source = official_file(NAME, FILE)
    direct = reidzoo.create_model(NAME, weights=source)
    (entry,) = import_official(source)
    source.unlink()
    model = reidzoo.create_model(NAME, pretrained=True)
    assert same(model, direct)
    assert model.weights_license == "reidzoo"
    assert (entry.name, entry.path, entry.linked) == (NAME, home / "weights" / f"{NAME}.safetensors", False)
    assert store.find(FILE) == entry == store.entries()[0]


def test_header_says_what_it_is(official_file):
    from reidzoo._files import sha256

    source = official_file(NAME, FILE)
    header = read_metadata(import_official(source)[0].path)
    assert header["source_sha256"] == sha256(source)
    assert {k: header[k] for k in ("model", "layout", "license", "source", "reidzoo_version")} == {
        "model": NAME,
        "layout": "timm",
        "license": "reidzoo",
        "source": str(source),
        "reidzoo_version": reidzoo.__version__,
    }
    assert same(reidzoo.create_model(f"local-dir:{store.find(NAME).path}"), reidzoo.create_model(NAME, pretrained=True))


def test_import_of_an_export_is_bit_identical(official_file, tmp_path):
    from reidzoo.weights import export_official

    import_official(official_file(NAME, FILE))
    model = reidzoo.create_model(NAME, pretrained=True)
    again = export_official(model, tmp_path / "again" / FILE)
    store.remove(NAME)
    import_official(again)
    assert same(reidzoo.create_model(NAME, pretrained=True), model)


def test_what_is_imported_is_under_the_licence_of_its_release(tmp_path):
    """Also where the file says that nobody has a claim on it: the store is for released weights."""
    from reidzoo.weights import export_official

    import_official(export_official(reidzoo.create_model(NAME), tmp_path / FILE))
    assert store.find(NAME).license == reidzoo.create_model(NAME, pretrained=True).weights_license == "reidzoo"


def test_content_counts_and_not_the_file_name(official_file):
    assert import_official(official_file("resnet18_ibn", "ResNet50.pth"))[0].name == "resnet18_ibn"
    bare = official_file("vit_tiny", "weights.pth", change=lambda c: {"teacher": c["teacher"]})
    assert import_official(bare)[0].name == "vit_tiny"
    parallel = official_file(
        NAME, "x.pth", change=lambda c: {"state_dict": {f"module.{k}": t for k, t in c["teacher"].items()}}
    )
    assert import_official(parallel)[0].name == NAME


def test_file_that_may_be_several_needs_a_name(official_file):
    def flatten(container):
        return {k.split(".", 2)[2]: t for k, t in container["teacher"].items() if ".head." not in k}

    flat = official_file("resnet50", "flat.pth", change=flatten)
    with pytest.raises(CheckpointError, match=r"may be any of .*resnet50.*--name"):
        import_official(flat)
    assert import_official(flat, name="resnet50")[0].name == "resnet50"


def half(container):
    return {"teacher": {k: t.half() for k, t in container["teacher"].items()}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (half, r"float16 tensors, a reduced copy of 'ghostnet_0_5'.*float32 file, which was expected"),
        (lambda c: {"student": c["teacher"]}, r"a student without its teacher.*expected a 'teacher'"),
        (lambda c: {"teacher": {"module.backbone.layer9.weight": torch.ones(3)}}, "no backbone that reidzoo knows"),
        (lambda c: {"teacher": dict(list(c["teacher"].items())[3:])}, r"'ghostnet_0_5' is the closest.* in \d missing"),
    ],
    ids=["half", "student", "unknown", "incomplete"],
)
def test_files_that_are_refused(change, message, official_file, home):
    with pytest.raises(CheckpointError, match=message):
        import_official(official_file(NAME, FILE, change=change))
    assert store.find(NAME) is None
    assert not list((home / "weights").glob("*")) if (home / "weights").exists() else True


def test_wrong_name_is_refused(official_file):
    with pytest.raises(CheckpointError, match=r"does not fit 'resnet18'. The file says that it holds 'ghostnet_0_5'"):
        import_official(official_file(NAME, FILE), name="resnet18")


def test_half_precision_in_place_is_said(official_file, caplog):
    path = official_file(NAME, FILE, change=half)
    with caplog.at_level("WARNING", logger="reidzoo"):
        reidzoo.create_model(NAME, weights=path)
    assert "float16 tensors: features differ" in caplog.text


def test_a_folder_gives_all_that_is_good_and_names_the_rest(official_file, tmp_path):
    official_file(NAME, "zoo/GhostNet_0_5.pth")
    official_file("resnet18", "zoo/more/ResNet18.pth")
    truncated = official_file("resnet18_ibn", "zoo/ResNet18_IBN.pth")
    truncated.write_bytes(truncated.read_bytes()[:1000])
    (tmp_path / "zoo" / "page.pth").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "zoo" / "readme.txt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"2 of 4 files .* were imported") as e:
        import_official(tmp_path / "zoo")
    assert "ResNet18_IBN.pth is damaged" in str(e.value)
    assert "page.pth" in str(e.value)
    assert "web page" in str(e.value)
    assert [entry.name for entry in store.entries()] == [NAME, "resnet18"]


def test_two_files_of_one_backbone_in_a_folder(official_file, tmp_path):
    first = official_file(NAME, "zoo/GhostNet_0_5.pth")
    (tmp_path / "zoo" / "copy.pth").write_bytes(first.read_bytes())
    assert [e.name for e in import_official(tmp_path / "zoo")] == [NAME]  # the same numbers twice
    official_file(NAME, "zoo/other.pth", seed=1)
    with pytest.raises(CheckpointError, match=r"other\.pth holds 'ghostnet_0_5' too, with other numbers"):
        import_official(tmp_path / "zoo")


def test_nothing_to_import(tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(WeightsNotFoundError):
            import_official(path)


def test_link_converts_nothing(official_file, home):
    source = official_file(NAME, FILE)
    before = source.read_bytes()
    (entry,) = import_official(source, link=True)
    assert entry.linked
    assert entry.path == source
    assert source.read_bytes() == before
    assert [p.name for p in (home / "weights").iterdir()] == [f"{NAME}.link.json"]
    model = reidzoo.create_model(NAME, pretrained=True)
    assert same(model, reidzoo.create_model(NAME, weights=source))
    assert model.weights_license == "reidzoo"
    store.verify(entry)

    import_official(source)  # a copy takes its place
    assert not store.find(NAME).linked
    assert [p.name for p in (home / "weights").iterdir()] == [f"{NAME}.safetensors"]
    with pytest.raises(ConfigError, match="reidzoo weights remove ghostnet_0_5"):
        import_official(source, link=True)
    store.remove(NAME)
    assert source.exists()
    assert store.find(NAME) is None


def test_linked_file_that_changes_or_goes(official_file):
    source = official_file(NAME, FILE)
    (entry,) = import_official(source, link=True)
    raw = bytearray(source.read_bytes())
    raw[len(raw) // 2] ^= 1
    source.write_bytes(raw)
    with pytest.raises(CheckpointError, match="changed since it was imported"):
        store.verify(entry)
    source.write_bytes(raw[:-10])
    with pytest.raises(CheckpointError, match=r"bytes when it was linked|when it was linked as"):
        reidzoo.create_model(NAME, pretrained=True)
    source.unlink()
    with pytest.raises(WeightsNotFoundError, match="which is gone"):
        reidzoo.create_model(NAME, pretrained=True)


@pytest.mark.parametrize("place", ["tensors", "header"])
def test_verify_sees_a_flipped_bit(place, official_file):
    (entry,) = import_official(official_file(NAME, FILE))
    store.verify(entry)
    raw = bytearray(entry.path.read_bytes())
    at = len(raw) - 100 if place == "tensors" else raw.index(b'"license":"reidzoo"') + 12
    raw[at] ^= 1
    entry.path.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"changed since it was imported: checksum .* expected"):
        store.verify(entry)


def test_damaged_store(official_file):
    (entry,) = import_official(official_file(NAME, FILE))
    entry.path.write_bytes(entry.path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match=r"damaged.*reidzoo weights remove ghostnet_0_5"):
        reidzoo.create_model(NAME, pretrained=True)
    import_official(official_file(NAME, FILE))  # what the message of `verify` advises heals it
    reidzoo.create_model(NAME, pretrained=True)


def run(python: str, code: str, *args: object) -> subprocess.CompletedProcess:
    return subprocess.run([python, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=180)


WORK = """
import sys, torch, reidzoo
torch.set_num_threads(1)
from reidzoo.weights import import_official
worker, rounds, sources = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
for i in range(rounds):
    import_official(sources[(worker + i) % 2])
    model = reidzoo.create_model("ghostnet_0_5", pretrained=True)
    # All tensors are of one source: its marks are the sums of two tensors far apart in the file.
    marks = [round(float(model.state_dict()[k].double().sum()), 6) for k in ("bn1.bias", "conv_head.bias")]
    print(*marks)
"""


def test_eight_processes_import_and_load_at_once(official_file, home, warm_python):
    """Two different files for one name, imported over and over; every load sees one of them whole."""
    sources = [official_file(NAME, f"{seed}/{FILE}", seed=seed) for seed in (0, 1)]
    marks = set()
    for source in sources:
        state = reidzoo.create_model(NAME, weights=source).state_dict()
        marks.add(" ".join(str(round(float(state[k].double().sum()), 6)) for k in ("bn1.bias", "conv_head.bias")))
    processes = [
        subprocess.Popen(
            [warm_python, "-c", WORK, str(worker), "4", *map(str, sources)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for worker in range(8)
    ]
    seen = []
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        seen += out.split("\n")[:-1]
    assert len(seen) == 32
    assert set(seen) <= marks
    assert [p.name for p in (home / "weights").iterdir()] == [f"{NAME}.safetensors"]
    store.verify(store.find(NAME))


REPLACE = """
import os, sys, torch
from safetensors.torch import save
files = []
for mark in (0, 1):
    # Different headers: read with the other file's, the tensor would be found at the wrong place too.
    header = {"mark": str(mark), "pad": "p" * 64 * mark}
    files.append(save({"x": torch.full((4,), float(mark))}, metadata=header))
while True:
    for content in files:
        with open(sys.argv[1] + ".next", "wb") as file:
            file.write(content)
        os.replace(file.name, sys.argv[1])
        print(flush=True)
"""


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path, warm_python):
    """Header and tensors are of one file, however often another takes its place."""
    from reidzoo.weights._files import read_safetensors

    target = tmp_path / "x.safetensors"
    with subprocess.Popen([warm_python, "-c", REPLACE, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = threading.Thread(target=process.stdout.read)  # or its pipe fills up
        reader.start()
        try:
            for _ in range(3000):
                tensors, header = read_safetensors(target)
                assert tensors["x"].tolist() == [float(header["mark"])] * 4
        finally:
            process.kill()
            reader.join()


def test_killed_while_importing(official_file, home, warm_python):
    source = official_file(NAME, FILE)
    licenses.accept("reidzoo")
    code = (
        "import os, sys\nfrom reidzoo.weights import import_official\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), 9)\nimport_official(sys.argv[1])\n"
    )
    assert run(warm_python, code, source).returncode == -9
    assert store.find(NAME) is None
    (leftover,) = (home / "weights").iterdir()
    assert leftover.name.startswith(".")
    os.utime(leftover, (0, 0))  # long ago
    import_official(source)
    assert [p.name for p in (home / "weights").iterdir()] == [f"{NAME}.safetensors"]


def test_a_temporary_file_that_vanishes_while_the_store_is_cleared(official_file, home):
    """Another process moves its file between the listing and the look at its age: here, a link to nothing."""
    (home / "weights").mkdir(parents=True)
    (home / "weights" / f".{NAME}.safetensors.1-1.tmp").symlink_to("gone")
    import_official(official_file(NAME, FILE))
    store.verify(store.find(NAME))


def test_disk_full(official_file, home, warm_python):
    """A write that the system stops in the middle: the error says so, and what was there stays."""
    import_official(official_file(NAME, FILE))
    before = store.find(NAME).path.read_bytes()
    other = official_file(NAME, "other/GhostNet_0_5.pth", seed=1)
    code = (
        "import resource, sys\nfrom reidzoo.weights import import_official\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\nimport_official(sys.argv[1])\n"
    )
    done = run(warm_python, code, other)
    assert done.returncode == 1
    assert "StoreError" in done.stderr.splitlines()[-1]
    assert "cannot be written" in done.stderr
    assert "REIDZOO_HOME" in done.stderr
    assert store.find(NAME).path.read_bytes() == before
    assert [p.name for p in (home / "weights").iterdir()] == [f"{NAME}.safetensors"]


def test_disk_too_small_is_said_before_writing(home):
    message = r"MB of free disk, and 'x' needs 1,000,000,000 MB"
    with pytest.raises(StoreError, match=message), store.writing("x", 10**15):
        pytest.fail("the block must not run")


@pytest.mark.skipif(os.getuid() != 0, reason="changes the user of a process")
def test_read_only_store(official_file, monkeypatch, warm_python):
    """Another user, who may only read: loading works, importing says why not."""
    with tempfile.TemporaryDirectory() as public:  # pytest's own folders are private
        os.chmod(public, 0o755)
        monkeypatch.setenv("REIDZOO_HOME", f"{public}/home")
        source = official_file(NAME, FILE)
        source = Path(shutil.copy(source, public))
        _load_and_import_as_nobody(source, warm_python)


def _load_and_import_as_nobody(source: Path, python: str) -> None:
    code = (
        "import os, sys, reidzoo\nfrom reidzoo.weights import import_official\n"
        "import_official(sys.argv[1])\nreidzoo.create_model('ghostnet_0_5', pretrained=True)\n"  # all modules are there
        "os.setuid(65534)\n"
        "print(float(reidzoo.create_model('ghostnet_0_5', pretrained=True).bn1.bias.sum()))\n"
        "import_official(sys.argv[1])\n"
    )
    done = run(python, code, source)
    assert done.stdout.strip(), done.stderr
    assert "StoreError" in done.stderr.splitlines()[-1]
    assert "Permission denied" in done.stderr


def test_listing_needs_no_torch(official_file):
    import_official(official_file(NAME, FILE))
    code = (
        "import sys\nfrom reidzoo.weights import store, licenses\n"
        "assert [e.name for e in store.entries()] == ['ghostnet_0_5']\nassert licenses.accepted('reidzoo')\n"
        "assert not {'torch', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
    )
    done = run(sys.executable, code)
    assert done.returncode == 0, done.stderr


def test_store_is_where_the_environment_says(home):
    assert store.folder() == home / "weights"
    with pytest.raises(WeightsNotFoundError, match=r"not on this machine.*reidzoo weights import GhostNet_0_5\.pth"):
        reidzoo.create_model(NAME, pretrained=True)
    with pytest.raises(WeightsNotFoundError, match="no weights of 'ghostnet_0_5'"):
        store.remove(NAME)


def test_damaged_link(official_file, home):
    import_official(official_file(NAME, FILE), link=True)
    record = home / "weights" / f"{NAME}.link.json"
    record.write_text(json.dumps({"name": NAME}))
    with pytest.raises(CheckpointError, match=r"link\.json is damaged"):
        store.find(NAME)
