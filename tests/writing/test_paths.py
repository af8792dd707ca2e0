"""Where images are written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import OutputError
from patchloom.writing.paths import Names

OUT = Path("out")


def names_of(extension: str | None, *sources: str) -> list[str]:
    names = Names(extension)
    return [names.path(OUT, source, i).relative_to(OUT).as_posix() for i, source in enumerate(sources)]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (["s.tif"], ["s.tiff"]),
        (["a/b/s.tif", "a/c/s.tif"], ["a/b/s.tiff", "a/c/s.tiff"]),
        (["./a//s.tif"], ["a/s.tiff"]),
        (["a/s.ome.tif"], ["a/s.ome.tiff"]),
        (["a/s"], ["a/s.tiff"]),
        (["/x/a/s.tif"], ["s.tiff"]),
        (["/x/a/s.tif", "/x/b/s.tif", "/y/b/s.tif"], ["s.tiff", "b/s.tiff", "y/b/s.tiff"]),
        (["/s.tif", "/s.png"], ["s.tiff", "s_1.tiff"]),
        (["a/s.tif", "a/s.png", "a/s_1.tif"], ["a/s.tiff", "a/s_1.tiff", "a/s_1_2.tiff"]),
        (["s.tif", "s.tif"], ["s.tiff", "s_1.tiff"]),
        (["", "array", "a/array.npy"], ["array_0.tiff", "array_1.tiff", "a/array_2.tiff"]),
        (["s3://bucket/a/s.zarr", "https://host/b/s.tif?x=1"], ["s.tiff", "b/s.tiff"]),
        (["C:\\data\\s.tif"], ["s.tiff"]),
        (["a.zarr/0/image"], ["a.zarr/0/image.tiff"]),
        (["../s.tif"], ["%2E%2E/s.tiff"]),
        (["a\0b.tif", "a:b.tif"], ["a%00b.tiff", "a%3Ab.tiff"]),
        ([f"{'x' * 300}.tif"], None),
    ],
)
def test_files_are_named_after_their_sources(sources: list[str], expected: list[str] | None) -> None:
    found = names_of(".tiff", *sources)
    assert expected is None or found == expected
    assert all(len(part.encode()) <= 255 for name in found for part in name.split("/"))


def test_names_in_a_run_are_those_of_the_sources() -> None:
    sources = ["a/s.tif", "a/s.png", "/x/s.tif", "", "a:b.tif"]
    assert names_of(None, *sources) == ["a/s.tif", "a/s.png", "s.tif", "array_3", "a:b.tif"]


def test_an_ome_ending_is_not_doubled() -> None:
    assert names_of(".ome.tiff", "s.ome.tif") == ["s.ome.tiff"]
    assert names_of("npy", "s.tif") == ["s.npy"]


@given(st.lists(st.text(st.sampled_from("ab./\\:%\0*é "), max_size=12), max_size=8))
def test_each_image_has_a_file_of_its_own_inside_the_folder(sources: list[str]) -> None:
    names = Names(".npy")
    paths = [names.path(OUT, source, i) for i, source in enumerate(sources)]
    assert len(set(paths)) == len(paths)
    for path in paths:
        assert path.parts[0] == "out" and ".." not in path.parts and path.suffix == ".npy"
    assert [names.path(OUT, source, i) for i, source in enumerate(sources)] == paths


def test_the_next_session_gives_a_source_the_same_file_whatever_its_index(tmp_path: Path) -> None:
    names = Names(".npy")
    first = [names.path(tmp_path, source, i) for i, source in enumerate(["a.tif", "b.tif", "a.png"])]
    names.next_session()
    again = [names.path(tmp_path, source, i) for i, source in enumerate(["b.tif", "a.png", "a.tif"])]
    assert again == [first[1], first[2], first[0]]


def test_a_source_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.npy").write_bytes(b"pixels")
    with pytest.raises(OutputError, match="the source itself"):
        Names(".npy").path(tmp_path, str(tmp_path / "s.npy"), 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="the source itself"):
        Names(".npy").path(Path(), "s.npy", 0)
