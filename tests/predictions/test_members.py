"""Files that hold the maps of several images: judged by Python's zipfile, and damaged byte by byte."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from patchloom.errors import RunDamagedError
from patchloom.predictions.members import MemberFiles, Members, OpenMembers, write_members

CONTENT = {
    "b.zarr/zarr.json": b"{}",
    "a/b.zarr/zarr.json": b"of another image whose name ends with that of the first",
    "b.zarr/zarr.json.zarr/zarr.json": b"of one whose name begins with it",
    "日本.zarr/0/c/0/0": bytes(range(256)),
    "empty": b"",
}


def read(path: Path, name: str) -> bytes:
    member = Members(path).member(name)
    return member.read(0, member.size)


def test_each_member_is_found_and_zipfile_agrees(tmp_path: Path) -> None:
    record = write_members(tmp_path / "u.zip", CONTENT.items())
    assert {name: read(tmp_path / "u.zip", name) for name in CONTENT} == CONTENT
    with zipfile.ZipFile(tmp_path / "u.zip") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == CONTENT
    assert record.size == (tmp_path / "u.zip").stat().st_size


def test_equal_members_make_equal_bytes(tmp_path: Path) -> None:
    records = [write_members(tmp_path / name, CONTENT.items()) for name in "ab"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert records[0].crc32c == records[1].crc32c


def test_a_part_of_a_member_is_read_alone_and_nothing_beyond_its_end(tmp_path: Path) -> None:
    write_members(tmp_path / "u.zip", CONTENT.items())
    member = Members(tmp_path / "u.zip").member("日本.zarr/0/c/0/0")
    assert (member.size, member.read(10, 3), member.read(250, 99)) == (256, b"\n\x0b\x0c", bytes(range(250, 256)))


def test_a_damaged_name_or_directory_is_an_error_and_never_another_member(tmp_path: Path) -> None:
    path, wanted = tmp_path / "u.zip", "b.zarr/zarr.json"
    write_members(path, CONTENT.items())
    original, refused = path.read_bytes(), 0
    for at in range(len(original)):
        path.write_bytes(original[:at] + bytes([original[at] ^ 4]) + original[at + 1 :])
        try:
            member = Members(path).member(wanted)
        except RunDamagedError:
            refused += 1
        else:  # the damage is in what lies elsewhere, in the content, or in its size: chunks and shards say that
            start = original.index(b"{}")
            assert member.start == start or abs(member.start - start) in (4, 4 << 8)
    assert refused > 50


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\5\6" + bytes(18) + b"x", bytes(100)])
def test_a_file_that_is_no_such_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "u.zip").write_bytes(content)
    with pytest.raises(RunDamagedError, match="directory"):
        Members(tmp_path / "u.zip")
    with pytest.raises(RunDamagedError, match="missing"):
        Members(tmp_path / "v.zip")


def test_more_members_than_a_plain_directory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)  # instead of 65,535
    write_members(tmp_path / "u.zip", CONTENT.items())
    assert b"PK\6\6" in (tmp_path / "u.zip").read_bytes(), "the directory ends as that of a ZIP64 file"
    assert {name: read(tmp_path / "u.zip", name) for name in CONTENT} == CONTENT


def test_a_file_in_place_of_another_is_opened_anew_and_old_ones_are_forgotten(tmp_path: Path) -> None:
    files = OpenMembers(capacity=2)
    for i in range(3):
        write_members(tmp_path / str(i), [("a/x", b"%d" % i)])
    first = files.open(tmp_path / "0")
    assert files.open(tmp_path / "0") is first
    write_members(tmp_path / "0", [("a/x", b"new")])
    assert MemberFiles(files.open(tmp_path / "0"), "a").reading("x").read(0, 9) == b"new"
    assert MemberFiles(first, "a").reading("x").read(0, 9) == b"0", "a lookup under way ends in the old file"
    kept = files.open(tmp_path / "0")
    files.open(tmp_path / "1")
    files.open(tmp_path / "2")
    assert files.open(tmp_path / "0") is not kept
