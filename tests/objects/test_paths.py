"""Paths of objects behave as paths of files do."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import pytest

from patchloom.objects import ObjectPath, as_path, is_object_url, traffic


def test_what_is_below_a_prefix_is_listed(s3_url: str) -> None:
    top = ObjectPath(s3_url) / "a"
    for name in ("1.txt", "2.txt", "b/3.txt"):
        (top / name).write_bytes(name.encode())
    assert sorted(path.name for path in top.iterdir()) == ["1.txt", "2.txt", "b"]
    assert sorted(path.name for path in top.glob("*.txt")) == ["1.txt", "2.txt"]
    assert sorted(path.relative_to(top).as_posix() for path in top.rglob("*")) == ["1.txt", "2.txt", "b/3.txt"]
    assert (top.is_dir(), top.is_file(), (top / "b").is_dir(), (top / "c").exists()) == (True, False, True, False)


def test_an_object_is_read_in_ranges(s3_url: str) -> None:
    path, data = ObjectPath(s3_url) / "x.bin", bytes(range(256)) * 4000
    path.write_bytes(data)
    before = traffic.read
    with path.open("rb") as file:
        file.seek(-300_000, io.SEEK_END)
        assert file.read(1000) == data[-300_000:][:1000]
    assert path.read_range(len(data) - 3, 100) == data[-3:]
    assert traffic.read - before < 200_000
    assert (path.read_bytes(), path.stat().st_size) == (data, len(data))


def test_an_object_is_made_once_and_replaced_only_by_who_has_read_it(s3_url: str) -> None:
    path = ObjectPath(s3_url) / "lease"
    tag = path.write_bytes(b"1", mode="create")
    with pytest.raises(FileExistsError):
        path.write_bytes(b"2", mode="create")
    path.write_bytes(b"3", mode={"e_tag": tag})
    with pytest.raises(FileExistsError):
        path.write_bytes(b"4", mode={"e_tag": tag})
    assert path.read_bytes() == b"3"
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"s3://.*/lease"):
        path.unlink()


def test_what_is_not_there_is_an_os_error_that_names_it(s3_url: str) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        (ObjectPath(s3_url) / "nowhere").read_bytes()
    with pytest.raises(OSError, match="no-such-bucket"):
        ObjectPath("s3://no-such-bucket/a").write_bytes(b"")


def test_names_are_taken_apart_as_those_of_files() -> None:
    path = ObjectPath("s3://bucket/a/b.ome.tif")
    assert (path.name, path.stem, path.suffix, str(path.parent)) == ("b.ome.tif", "b.ome", ".tif", "s3://bucket/a")
    assert str(path.with_name("c")) == "s3://bucket/a/c"
    assert pickle.loads(pickle.dumps(path)) == path
    assert str(ObjectPath("s3://bucket") / "k") == "s3://bucket/k"
    assert ObjectPath("https://host/a/b.tif?v=2").name == "b.tif"


def test_only_known_schemes_are_objects() -> None:
    assert [is_object_url(text) for text in ("gs://b/k", "https://h/k", "sqlite:///k", "k", "c:\\k")] == [
        True, True, False, False, False]
    assert as_path("a/b") == Path("a/b")
    assert as_path("s3://b/k") == ObjectPath("s3://b/k")
