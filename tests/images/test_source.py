"""Sources enumerate lazily, in a fixed order, each image under a name of its own."""

from __future__ import annotations

import csv
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import zarr
from PIL import Image as Pillow
from pyarrow import parquet

from patchloom.errors import SourceError, SourceNotFoundError, UnknownFormatError, UnreadableImageError
from patchloom.images import Entry, Source, as_source, from_spec
from patchloom.images.sources import folder as folders


def touch(folder: Path, *names: str) -> Path:
    """Write small PNG images (and other files as text)."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in {".png", ".tif"} or not path.suffix:
            Pillow.new("L", (3, 2)).save(path, format="PNG")
        else:
            path.write_text("no image")
    return folder


def names(source: Source) -> list[str]:
    return [entry.name for entry in source]


def check_again(source: Source) -> None:
    """A source enumerates the same again, also when it is rebuilt from JSON."""
    first = [(entry.name, entry.identity) for entry in source]
    assert [(entry.name, entry.identity) for entry in source] == first
    again = from_spec(json.loads(json.dumps(source.spec())))
    assert [(entry.name, entry.identity) for entry in again] == first


def test_a_folder_gives_its_images_sorted_by_path(tmp_path: Path) -> None:
    touch(tmp_path, "b/s.png", "a/s.png", "z.png", "a/deep/er/x.png", "B.png")
    source = as_source(tmp_path)
    assert names(source) == ["B.png", "a/deep/er/x.png", "a/s.png", "b/s.png", "z.png"]
    assert isinstance(source, Source)
    check_again(source)


def test_files_beside_images_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "notes.txt", "table.csv", "model.onnx", "x.json", "unknown.bin", "no_suffix")
    touch(tmp_path, ".hidden.png", ".folder/b.png")
    assert names(as_source(tmp_path)) == ["a.png", "no_suffix"]


def test_images_that_cannot_be_read_are_reported_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    (tmp_path / "scan.dcm").write_bytes(bytes(300))
    os.symlink(tmp_path / "gone.tif", tmp_path / "link.tif")
    entries = {entry.name: entry for entry in as_source(tmp_path)}
    assert list(entries) == ["broken.tif", "link.tif", "scan.dcm"]
    for name, error in (("broken.tif", UnreadableImageError), ("link.tif", UnreadableImageError),
                        ("scan.dcm", UnknownFormatError)):
        with pytest.raises(error, match=name):
            entries[name].open()
    assert entries["link.tif"].identity == "missing"


def test_runs_of_patchloom_are_no_images(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "run/dense/map.png", "run/run.json", "run/journal/x.log", "other/run.json", "other/b.png")
    assert names(as_source(tmp_path)) == ["a.png", "other/b.png"]


def test_a_zarr_folder_is_one_image(tmp_path: Path) -> None:
    for name in ("a.zarr", "sub/b"):
        zarr.create_array(tmp_path / name, shape=(4, 5), chunks=(2, 2), dtype="uint8", zarr_format=2)[...] = 1
    source = as_source(tmp_path)
    assert names(source) == ["a.zarr", "sub/b"]
    assert [entry.open().info.shape for entry in source] == [(4, 5), (4, 5)]
    assert names(as_source(tmp_path / "a.zarr")) == ["a.zarr"]
    assert names(as_source(str(tmp_path / "**" / "*.zarr"))) == ["a.zarr"]


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/one.png")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    os.symlink(tmp_path / "a", tmp_path / "other")
    found = names(as_source(tmp_path))
    assert found == ["a/one.png", "other/one.png"]


def test_a_folder_is_listed_only_as_far_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{i}/{k}.png" for i in range(5) for k in range(3)))
    listed: list[Path] = []
    children = folders._children
    monkeypatch.setattr(folders, "_children", lambda folder: listed.append(folder) or children(folder))
    assert [entry.name for entry in itertools.islice(as_source(tmp_path), 2)] == ["0/0.png", "0/1.png"]
    assert listed == [tmp_path, tmp_path / "0"]


@pytest.mark.parametrize(("pattern", "expected"), [
    ("*.png", ["z.png"]),
    ("*/s.png", ["a/s.png", "b/s.png"]),
    ("**/*.png", ["a/deep/x.png", "a/s.png", "b/s.png", "z.png"]),
    ("**/[ab]/**/?.png", ["a/deep/x.png", "a/s.png", "b/s.png"]),
    ("a/**/*.png", ["deep/x.png", "s.png"]),
    ("*", ["z.png"]),
    ("**/*.dat", ["b/raw.dat"]),
    ("**/*.txt", ["a/notes.txt"]),
])  # fmt: skip
def test_patterns_match_as_in_a_shell(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    touch(tmp_path, "a/s.png", "b/s.png", "a/deep/x.png", "z.png", "a/notes.txt", "b/raw.dat", ".hidden/x.png")
    source = as_source(f"{tmp_path}/{pattern}")
    assert names(source) == expected
    check_again(source)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        as_source(tmp_path / "nowhere")
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        list(as_source(f"{tmp_path}/nowhere/*.png"))
    with pytest.raises(SourceError, match="no image matches"):
        list(as_source(f"{tmp_path}/*.png"))
    with pytest.raises(SourceError, match="no images in this folder") as caught:
        list(as_source(tmp_path))
    assert caught.value.hint
    for empty in ([], {}):
        with pytest.raises(SourceError, match="empty"):
            list(as_source(empty))


@pytest.mark.parametrize("source", [5, object(), b"bytes", [np.zeros((3, 3))]])
def test_what_is_no_source_is_said(source: Any) -> None:
    with pytest.raises(SourceError) as caught:
        list(as_source(source))
    assert caught.value.hint


def test_a_file_is_named_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/s.png")
    source = as_source(tmp_path / "a" / "s.png")
    (entry,) = source
    assert entry.name == "s.png"
    found = os.stat(tmp_path / "a" / "s.png")
    assert entry.identity == f"{found.st_size}:{found.st_mtime_ns}"
    assert entry.open().info.shape == (2, 3)
    check_again(source)


def test_a_list_is_named_below_the_folder_in_common_and_keeps_its_order(tmp_path: Path) -> None:
    touch(tmp_path, "x/b/s.png", "x/a/s.png")
    source = as_source([tmp_path / "x/b/s.png", str(tmp_path / "x/a/s.png"), tmp_path / "x/a/gone.png"])
    assert names(source) == ["b/s.png", "a/s.png", "a/gone.png"]
    check_again(source)
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        list(source)[2].open()
    for bad in ([tmp_path / "x/a/s.png"] * 2, [tmp_path / "x"]):
        with pytest.raises(SourceError):
            as_source(bad)


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Table as CSV or Parquet, by the suffix."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("column", ["image", "path", "file", "uri", "first"])
def test_a_manifest_lists_paths_relative_to_its_folder(tmp_path: Path, suffix: str, column: str) -> None:
    touch(tmp_path, "m/a/s.png", "m/b/s.png", "else/s.png")
    rows = [{column: path, "label": 1} for path in ("b/s.png", "./a/s.png", str(tmp_path / "else" / "s.png"))]
    source = as_source(write_manifest(tmp_path / "m" / f"list{suffix}", rows))
    assert names(source) == ["b/s.png", "a/s.png", str(tmp_path / "else" / "s.png")[1:]]
    assert all(entry.open().info.shape == (2, 3) for entry in source)
    check_again(source)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_may_name_its_images(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "a.png")
    rows = [{"name": "patient 7/left", "image": "a.png"}, {"name": "again", "image": "a.png"}]
    assert names(as_source(write_manifest(tmp_path / f"list{suffix}", rows))) == ["patient 7/left", "again"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(("rows", "message"), [
    ([{"image": "a.png"}, {"image": "a.png"}], "second image is called 'a.png'"),
    ([{"image": "a.png", "name": "../../etc"}], "row 1: '../../etc' cannot be the name"),
    ([{"image": "a.png", "name": "/etc/x"}], "cannot be the name"),
    ([{"image": "", "name": "x"}], "row 1 names no image"),
])  # fmt: skip
def test_names_in_a_manifest_are_unique_and_stay_inside(
    tmp_path: Path, suffix: str, rows: list[dict[str, Any]], message: str
) -> None:
    path = write_manifest(tmp_path / f"list{suffix}", rows)
    with pytest.raises(SourceError, match=message) as caught:
        list(as_source(path))
    assert str(path) in str(caught.value)


def test_a_manifest_that_is_no_table_is_said(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"no table")
    (tmp_path / "list.csv").write_bytes(b"\xff\xfe\x00binary")
    (tmp_path / "empty.csv").touch()
    for name in ("list.parquet", "list.csv", "empty.csv"):
        with pytest.raises(SourceError, match=name):
            list(as_source(tmp_path / name))


def test_a_mapping_names_arrays_and_files(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    source = as_source({"first": np.zeros((5, 6, 3), np.uint8), 7: np.ones((4, 4)), "file": tmp_path / "a.png"})
    entries = list(source)
    assert [entry.name for entry in entries] == ["first", "7", "file"]
    assert [entry.open().info.shape for entry in entries] == [(5, 6, 3), (4, 4), (2, 3)]
    assert entries[0].identity.startswith("array:5x6x3:uint8")
    assert source.spec() is None
    check_again(as_source({"x": tmp_path / "a.png", "y/z": str(tmp_path / "a.png")}))


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "bool", "float16"])
def test_an_array_that_changes_is_another_image(dtype: str) -> None:
    first, second = np.zeros((4, 6), dtype), np.zeros((4, 6), dtype)
    second[3, 5] = 1
    identities = [entry.identity for entry in as_source({"a": first, "b": second, "c": first[:, ::-1]})]
    assert identities[0] != identities[1]
    assert identities[0] == identities[2]


@pytest.mark.parametrize("key", ["../x", "/x", "", "a/../../b", "a\0b"])
def test_names_that_lead_out_of_a_folder_are_refused(key: str) -> None:
    with pytest.raises(SourceError, match="cannot be the name"):
        list(as_source({key: np.zeros((4, 4))}))


def test_keys_that_read_alike_are_refused() -> None:
    with pytest.raises(SourceError, match="two images are called '1'"):
        list(as_source({1: np.zeros((4, 4)), "1": np.zeros((4, 4))}))


def test_axes_are_handed_to_each_image(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((5, 6, 3)))
    for source in (as_source(tmp_path, axes="TYX"), as_source({"a": np.zeros((5, 6, 3))}, axes="TYX")):
        (entry,) = source
        assert entry.open().info.axes == "TYX"
    spec = as_source(tmp_path, axes="TYX").spec()
    assert spec is not None and spec["axes"] == "TYX"


def test_a_source_of_ones_own_is_taken_as_it_is() -> None:
    class Mine:
        def __iter__(self) -> Any:
            yield Entry("one", lambda: None, "1")  # type: ignore[arg-type, return-value]

        def spec(self) -> None:
            return None

    mine = Mine()
    assert as_source(mine) is mine
    assert names(as_source(np.zeros((4, 4)))) == ["array"]


def test_a_description_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SourceError, match="oracle"):
        from_spec({"kind": "oracle"})


def test_names_that_are_no_text_can_be_written_as_text(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/\xff.png")
    (entry,) = as_source(tmp_path)
    assert entry.name.encode()
    assert entry.open().info.shape == (2, 3)
