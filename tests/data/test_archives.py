"""Archives as they come, and as somebody with bad intentions would make them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from reidzoo.data.archives import extract_archive
from reidzoo.errors import DataError, DataNotFoundError

FILES = {"set/train/0001_c1.jpg": b"\xff\xd8 one", "set/train/0002_c1.jpg": os.urandom(3000), "set/list.txt": b""}


def make_zip(path: Path, files: dict[str, bytes] = FILES, **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("set/", b"")
        for name, content in files.items():
            file.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES, *extra: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in files.items():
            file.addfile(entry(name, size=len(content), mode=0o6777), io.BytesIO(content))
        for info in extra:
            file.addfile(info, io.BytesIO(bytes(info.size)))
    return path


def entry(name: str, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(info, key, value)
    return info


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refused(archive: Path, match: str, **limits: int) -> None:
    """The archive is refused, and the folder above holds nothing but the archive."""
    before = sorted(archive.parent.iterdir())
    with pytest.raises(DataError, match=match) as error:
        extract_archive(archive, archive.parent / "out", **limits)
    assert str(archive) in str(error.value)
    assert sorted(archive.parent.iterdir()) == before


@pytest.mark.parametrize("kind", ["zip", "deflated zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_what_was_packed_comes_out(tmp_path: Path, kind: str) -> None:
    if "zip" in kind:
        archive = make_zip(tmp_path / "a", compression=zipfile.ZIP_DEFLATED if "deflated" in kind else 0)
    else:
        archive = make_tar(tmp_path / "a", mode=kind)
    (tmp_path / "out").mkdir()  # an empty folder is taken
    assert extract_archive(archive, tmp_path / "out") == tmp_path / "out"
    assert content(tmp_path / "out") == FILES
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").rglob("*.jpg")}
    assert not any(mode & 0o7111 for mode in modes)  # neither set-user-id nor executable
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "out"]


def test_a_tar_that_holds_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip").read_bytes()
    extract_archive(make_tar(tmp_path / "a.tar", {"inner.zip": inner}), tmp_path / "out")
    assert content(tmp_path / "out") == {"inner.zip": inner}


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/evil", "\\evil", "..\\evil", "a\\..\\..\\evil", "C:\\evil", "C:evil", "a/../evil"],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_lead_out(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    (tmp_path / "here").mkdir()
    refused(make(tmp_path / "here" / "a", {"good.jpg": b"1", name: b"evil"}), "leads out of the folder")
    assert [p.name for p in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "nowhere.jpg", "set", "set/../../secret"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_out_of_a_tar(tmp_path: Path, kind: bytes, target: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "here").mkdir()
    refused(
        make_tar(tmp_path / "here" / "a", FILES, entry("x.jpg", type=kind, linkname=target)), "a link .*not allowed"
    )


def test_a_file_through_a_link(tmp_path: Path) -> None:
    """The classic: a link to a folder outside, then a file in it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "here").mkdir()
    link = entry("a", type=tarfile.SYMTYPE, linkname="../../outside")
    refused(make_tar(tmp_path / "here" / "a.tar", FILES, link, entry("a/evil", size=4)), "a link out of the archive")
    inside = entry("a", type=tarfile.SYMTYPE, linkname="set")
    refused(make_tar(tmp_path / "here" / "b.tar", FILES, inside, entry("a/evil", size=4)), "no file of the archive")
    assert not list((tmp_path / "outside").iterdir())


def test_links_inside_become_copies(tmp_path: Path) -> None:
    archive = make_tar(
        tmp_path / "a.tar",
        FILES,
        entry("set/train/chain", type=tarfile.SYMTYPE, linkname="soft"),  # before what it points to
        entry("set/train/soft", type=tarfile.SYMTYPE, linkname="../train/0001_c1.jpg"),
        entry("hard", type=tarfile.LNKTYPE, linkname="set/train/0002_c1.jpg"),
    )
    extract_archive(archive, tmp_path / "out")
    one, two, _ = FILES.values()
    assert content(tmp_path / "out") == FILES | {"set/train/chain": one, "set/train/soft": one, "hard": two}
    assert not any(p.is_symlink() or (p.is_file() and p.stat().st_nlink > 1) for p in (tmp_path / "out").rglob("*"))
    circle = [entry("p", type=tarfile.SYMTYPE, linkname="q"), entry("q", type=tarfile.SYMTYPE, linkname="p")]
    (tmp_path / "here").mkdir()
    refused(make_tar(tmp_path / "here" / "c.tar", FILES, *circle), "no file of the archive")


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    for i, target in enumerate(("/etc/passwd", "set/list.txt")):
        (tmp_path / str(i)).mkdir()
        archive = make_zip(tmp_path / str(i) / "a.zip")
        with zipfile.ZipFile(archive, "a") as file:
            info = zipfile.ZipInfo("link")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, target)
    refused(tmp_path / "0" / "a.zip", "a link out of the archive")
    extract_archive(tmp_path / "1" / "a.zip", tmp_path / "1" / "out")
    assert content(tmp_path / "1" / "out") == FILES | {"link": b""}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    refused(
        make_tar(tmp_path / "a.tar", FILES, entry("tty", type=kind, devmajor=5)), "a device or pipe and not allowed"
    )


def test_limits(tmp_path: Path) -> None:
    big = {f"{i}.jpg": bytes(1000) for i in range(10)}
    for make in (make_zip, make_tar):
        archive = make(tmp_path / "a", big)
        refused(archive, "more than 9,999 bytes.*--max-gb", max_bytes=9_999)
        refused(archive, "more than 9 entries", max_files=9)
        extract_archive(archive, tmp_path / f"out-{make.__name__}", max_bytes=10_000, max_files=11)  # zip: one folder
    doubled = make_tar(tmp_path / "b.tar", big, entry("link", type=tarfile.LNKTYPE, linkname="0.jpg"))
    (tmp_path / "here").mkdir()
    doubled = doubled.rename(tmp_path / "here" / "b.tar")
    refused(doubled, "more than 10,500 bytes", max_bytes=10_500)  # what becomes a copy counts
    refused(doubled, "more than 10 entries", max_files=10)
    extract_archive(doubled, tmp_path / "here" / "out", max_bytes=11_000, max_files=11)  # and counts once


def test_bombs_are_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Far more bytes than the archive has: the limit that counts without being asked for."""
    monkeypatch.setattr("reidzoo.data.archives._LEAST_LIMIT", 1 << 16)
    bomb = {"zeros.jpg": bytes(10 << 20)}
    refused(make_zip(tmp_path / "a", bomb, compression=zipfile.ZIP_DEFLATED), "holds more than")
    refused(make_tar(tmp_path / "a", bomb, mode="w:gz"), "holds more than")
    # A zip whose directory lies about the size: what comes out counts, not what is said.
    archive = make_zip(tmp_path / "a", bomb, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(archive) as file:
        size = file.getinfo("zeros.jpg").file_size.to_bytes(4, "little")
    archive.write_bytes(archive.read_bytes().replace(size, (10).to_bytes(4, "little")))
    refused(archive, "damaged|holds more than")


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    header = entry("x", type=tarfile.XHDTYPE, size=1 << 33).tobuf(tarfile.GNU_FORMAT)
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header + bytes(1 << 20))
    refused(tmp_path / "a.tar.gz", "has a header of 8,589,934,592 bytes")


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_clashing_names(tmp_path: Path, make: Callable[..., Path]) -> None:
    refused(make(tmp_path / "a", {"x.jpg": b"1", "./x.jpg": b"2"}), "holds './x.jpg' twice|holds 'x.jpg' twice")
    refused(make(tmp_path / "a", {"x": b"1", "x/y.jpg": b"2"}), "needs a folder where the archive has a file")
    refused(make(tmp_path / "a", {"x/y.jpg": b"1", "x": b"2"}), "holds 'x' twice")


@pytest.mark.parametrize("kind", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_cut_and_damaged_archives(tmp_path: Path, kind: str) -> None:
    """Wherever a download stopped, and whichever byte was lost, no archive counts as whole that is not."""
    files = {f"set/{i}.jpg": os.urandom(900) for i in range(4)}
    archive = make_zip(tmp_path / "a", files) if kind == "zip" else make_tar(tmp_path / "a", files, mode=kind)
    whole = archive.read_bytes()
    ends = [*range(0, len(whole) - 1, 512), len(whole) - 1]
    if kind == "w":  # behind the last file come two empty blocks, then padding
        ends = [end for end in ends if end <= 4 * (512 + 1024)]
    for end in ends:
        archive.write_bytes(whole[:end])
        refused(archive, "damaged, incomplete")
    if kind != "w":  # a plain tar has checksums of names only
        for at in range(len(whole) // 2, len(whole) // 2 + 200, 40):
            archive.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            refused(archive, "damaged, incomplete|not allowed")


def test_a_tar_with_a_broken_name_block(tmp_path: Path) -> None:
    """tarfile takes a broken header in the middle for the end; the rest would be lost without a word."""
    archive = make_tar(tmp_path / "a.tar", {f"{i}.jpg": bytes(100) for i in range(4)})
    broken = bytearray(archive.read_bytes())
    broken[2 * 1024 + 3] ^= 0xFF
    archive.write_bytes(broken)
    refused(archive, "it has no end mark")


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match=f"no archive {tmp_path}/gone.zip. Expected a zip, tar"):
        extract_archive(tmp_path / "gone.zip", tmp_path / "out")
    for i, bytes_ in enumerate(
        (b"", b"Rar!\x1a\x07", b"PK\x03\x04 no zip", bz2.compress(b"text"), lzma.compress(b"x"))
    ):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a").write_bytes(bytes_)
        refused(tmp_path / str(i) / "a", "damaged, incomplete, or of another kind than zip, tar")
    (tmp_path / "empty").mkdir()
    refused(make_tar(tmp_path / "empty" / "a.tar", {}, entry("folder", type=tarfile.DIRTYPE)), "holds no file")


def test_encrypted(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"x.jpg": b"1"})
    raw = bytearray(archive.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # as in its entry, so in the directory
        raw[raw.rfind(signature) + flags] |= 1
    archive.write_bytes(raw)
    refused(archive, "is encrypted")


def test_a_used_folder_is_left_alone(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").touch()
    for name in ("mine", "link", "file"):
        with pytest.raises(DataError, match=f"{tmp_path}/{name} exists already"):
            extract_archive(archive, tmp_path / name)
    assert content(tmp_path / "mine") == {"thesis.txt": b"precious"}


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = make_tar(tmp_path / "a.tar")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("reidzoo.data.archives._Stage.copy_links", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_archive(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar"]
