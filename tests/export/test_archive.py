"""Archives: every row, map and image comes back, with the standard library and with NumPy; equal runs, equal bytes."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import tracemalloc
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from PIL import Image

import patchloom
from patchloom.errors import NotPredictedError, SourceError, UsageError
from patchloom.export import arrays as arrays_module
from patchloom.export.archive import ArchiveExport
from patchloom.export.container import Container, MemberNames
from patchloom.export.originals import path_of
from patchloom.export.reading import read_archive
from patchloom.images.sources.entry import Entry, OpenFile

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 255, (70, 90, 3), dtype=np.uint8)


def means(batch: NDArray[Any]) -> NDArray[Any]:
    return batch.mean((2, 3), dtype=np.float32)


def both(batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {"map": batch.astype("f4"), "classes": (batch[:, 0] // 64).astype("u1"), "mean": means(batch),
            "top": batch.max((1, 2, 3))}


def rows_of(path: Path, member: str) -> list[dict[str, str]]:
    with zipfile.ZipFile(path) as file, file.open(member) as lines:
        return list(csv.DictReader(io.TextIOWrapper(lines, "utf-8", newline="")))


def members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return file.namelist()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "photos"
    (folder / "b").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b/c.png", "b/ä, “é”.png")):
        Image.fromarray(PIXELS[i : i + 64, :64]).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> patchloom.Run:
    return patchloom.predict(photographs, means, tmp_path_factory.mktemp("runs") / "run", patch=32, classes="r,g,b")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> patchloom.Run:
    return patchloom.predict(photographs, both, tmp_path_factory.mktemp("runs") / "run", patch=32)


def test_an_archive_has_one_row_a_patch(vectors: patchloom.Run, tmp_path: Path) -> None:
    vectors.export(tmp_path / "out.zip")
    rows = rows_of(tmp_path / "out.zip", "metadata.csv")
    assert list(rows[0]) == ["image", "row", "col", "y", "x", "height", "width", "r", "g", "b"]
    assert len(rows) == 12
    for row in rows:
        expected = vectors.patch(row["image"], int(row["y"]), int(row["x"]))
        np.testing.assert_array_equal(np.array([row["r"], row["g"], row["b"]], np.float32), expected)
    assert members(tmp_path / "out.zip") == ["README.txt", "metadata.csv", "images.csv"]


def test_images_are_left_apart_and_referred_to_by_name_and_path(
    vectors: patchloom.Run, photographs: Path, tmp_path: Path
) -> None:
    vectors.export(tmp_path / "out.zip")
    rows = rows_of(tmp_path / "out.zip", "images.csv")
    assert {row["image"]: row["path"] for row in rows} == {name: str(photographs / name) for name in vectors}


def test_images_are_copied_where_that_is_wanted(vectors: patchloom.Run, photographs: Path, tmp_path: Path) -> None:
    vectors.export(tmp_path / "out.zip", with_images=True)
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        for row in rows_of(tmp_path / "out.zip", "images.csv"):
            assert file.read(row["file"]) == (photographs / row["image"]).read_bytes()
            assert row["file"].startswith("images/")


def test_metadata_may_be_json(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "j.zip", metadata="json")
    everything.export(tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "j.zip") as file:
        found = {name: json.loads(file.read(f"{name}.json")) for name in ("metadata", "arrays", "images")}
    for name, rows in found.items():
        texts = rows_of(tmp_path / "c.zip", f"{name}.csv")
        plain = [{key: json.dumps(value) if isinstance(value, list) else str(value) for key, value in row.items()}
                 for row in rows]
        if name == "metadata":
            frames = [pandas.DataFrame(one).drop(columns="image").astype(float) for one in (plain, texts)]
            pandas.testing.assert_frame_equal(*frames)
        else:
            assert plain == texts


def test_several_heads_are_side_by_side(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "out.zip")
    rows = rows_of(tmp_path / "out.zip", "metadata.csv")
    assert list(rows[0])[7:] == ["mean.0", "mean.1", "mean.2", "top"]
    for row in rows:
        expected = everything.patch(row["image"], int(row["y"]), int(row["x"]))
        assert expected is not None
        np.testing.assert_array_equal(np.array([row[f"mean.{i}"] for i in range(3)], np.float32), expected["mean"])
        assert int(row["top"]) == expected["top"]


def test_maps_are_numpy_files(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "out.zip")
    rows = rows_of(tmp_path / "out.zip", "arrays.csv")
    assert len(rows) == 6
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        for row in rows:
            array = np.load(io.BytesIO(file.read(row["file"])))
            stitched = everything[row["image"]].stitched(row["head"])
            np.testing.assert_array_equal(array, stitched)
            assert (json.loads(row["shape"]), row["dtype"], row["axes"]) == (
                list(array.shape), array.dtype.name, stitched.axes)


def test_a_run_of_maps_has_one_row_an_image(photographs: Path, tmp_path: Path) -> None:
    run = patchloom.predict(photographs, lambda batch: batch.astype("f4"), tmp_path / "run", patch=32)
    run.export(tmp_path / "out.zip", level=0)
    rows = rows_of(tmp_path / "out.zip", "metadata.csv")
    assert [row["image"] for row in rows] == list(run)
    assert rows[0]["file"] == "predictions/a.png.npy"
    assert members(tmp_path / "out.zip") == ["README.txt", *(row["file"] for row in rows), "metadata.csv", "images.csv"]


def test_vectors_are_numpy_files_where_that_is_wanted(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "out.zip", predictions=True, head="mean")
    with read_archive(tmp_path / "out.zip") as archive:
        rows = list(archive.rows("arrays"))
        assert [row["image"] for row in rows] == list(everything)
        for row in rows:
            expected = [value["mean"] for value in everything[row["image"]].values()]
            np.testing.assert_array_equal(archive.array(row["file"]), expected)
            assert row["axes"] == "NC"


def test_every_column_is_explained(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "out.zip", with_images=True)
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        text = file.read("README.txt").decode()
    for table in ("metadata.csv", "arrays.csv", "images.csv"):
        part = text.partition(table)[2].partition("\n\n")[0]
        assert all(f"\n  {column} " in part for column in rows_of(tmp_path / "out.zip", table)[0])


def test_equal_runs_give_equal_bytes(everything: patchloom.Run, photographs: Path, tmp_path: Path) -> None:
    again = patchloom.predict(photographs, both, tmp_path / "again", patch=32, threads=1, batch=3)
    options = {"predictions": True, "with_images": True}
    for name, run in (("1", everything), ("2", everything), ("3", again)):
        run.export(tmp_path / f"{name}.zip", **options)
        run.export(tmp_path / f"{name}.npz")
    for suffix in ("zip", "npz"):
        contents = {(tmp_path / f"{i}.{suffix}").read_bytes() for i in (1, 2, 3)}
        assert len(contents) == 1
    with zipfile.ZipFile(tmp_path / "1.zip") as file:
        assert {info.date_time for info in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_one_image_or_one_head_can_be_archived(everything: patchloom.Run, tmp_path: Path) -> None:
    everything.export(tmp_path / "out.zip", image="a.png", head="classes", with_images=True)
    assert members(tmp_path / "out.zip") == [
        "README.txt", "predictions/a.png.npy", "metadata.csv", "images/a.png", "images.csv"]
    with pytest.raises(NotPredictedError):
        everything.export(tmp_path / "none.zip", image="z.png")
    with pytest.raises(UsageError, match="no head 'z'"):
        everything.export(tmp_path / "none.zip", head="z")
    assert not (tmp_path / "none.zip").exists()


def test_loops_have_columns_and_skipped_patches_are_empty(tmp_path: Path) -> None:
    stack = np.zeros((2, 64, 64), np.uint8)
    stack[:, :32] = RNG.integers(1, 255, (2, 32, 64))

    def empty(patches: NDArray[Any]) -> bool:
        return not patches.any()

    run = patchloom.predict({"s": stack}, lambda batch: {"sum": batch.sum((1, 2, 3), dtype="i4"), "mean": means(batch)},
                            tmp_path / "run", patch=32, axes="TYX", skip=empty)
    run.export(tmp_path / "out.zip", predictions=True)
    rows = rows_of(tmp_path / "out.zip", "metadata.csv")
    assert list(rows[0])[:4] == ["image", "t", "row", "col"]
    assert [row["sum"] == "" for row in rows] == [row["mean.0" if "mean.0" in row else "mean"] == "" for row in rows]
    assert [row["sum"] == "" for row in rows] == [False, False, True, True] * 2
    with read_archive(tmp_path / "out.zip") as archive:
        sums = archive.array("predictions/sum/s.npy")
        assert np.isnan(archive.array("predictions/mean/s.npy")[2:4]).all()
        assert sums.tolist() == [int(row["sum"]) if row["sum"] else 2**31 - 1 for row in rows]
        assert "skipped" in archive._zip.read("README.txt").decode()


def test_a_run_of_arrays_has_no_paths_and_nothing_to_copy(tmp_path: Path) -> None:
    run = patchloom.predict({"x": PIXELS}, means, tmp_path / "run", patch=32)
    run.export(tmp_path / "out.zip")
    assert rows_of(tmp_path / "out.zip", "images.csv") == [{"image": "x", "path": ""}]
    with pytest.raises(UsageError, match="no file"):
        run.export(tmp_path / "more.zip", with_images=True)
    assert not (tmp_path / "more.zip").exists()


def test_a_source_that_has_moved_costs_only_the_paths(photographs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    Image.fromarray(PIXELS).save(moved / "a.png")
    Image.fromarray(PIXELS).save(moved / "b.png")
    run = patchloom.predict(moved, means, tmp_path / "run", patch=32)
    (moved / "a.png").unlink()
    run.export(tmp_path / "one.zip")
    rows = rows_of(tmp_path / "one.zip", "images.csv")
    assert rows == [{"image": "b.png", "path": str(moved / "b.png")}, {"image": "a.png", "path": ""}]
    (moved / "b.png").unlink()
    moved.rmdir()
    run.export(tmp_path / "none.zip")
    assert [row["path"] for row in rows_of(tmp_path / "none.zip", "images.csv")] == ["", ""]
    with pytest.raises(SourceError, match="moved"):
        run.export(tmp_path / "copies.zip", with_images=True)


def test_zarr_images_are_copied_as_folders(tmp_path: Path) -> None:
    import zarr

    array = zarr.create_array(tmp_path / "in" / "s.zarr", shape=(64, 64), dtype="u1", chunks=(32, 32))
    array[...] = PIXELS[:64, :64, 0]
    run = patchloom.predict(tmp_path / "in", means, tmp_path / "run", patch=32)
    run.export(tmp_path / "out.zip", with_images=True)
    with read_archive(tmp_path / "out.zip") as archive:
        archive.extract(tmp_path / "unpacked")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "unpacked" / "images" / "s.zarr")[...],
                                  PIXELS[:64, :64, 0])


def test_images_out_of_a_database_are_copied_as_they_are(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    content = (photographs / "a.png").read_bytes()
    with closing(sqlite3.connect(tmp_path / "lab.db")) as database, database:
        database.execute("create table photos (id integer primary key, image blob)")
        database.executemany("insert into photos values (?, ?)", [(1, content), (17, content)])
    source = patchloom.SQLSource(f"sqlite:///{tmp_path / 'lab.db'}", "select id, image from photos")
    run = patchloom.predict(source, means, tmp_path / "run", patch=32)
    run.export(tmp_path / "out.zip", with_images=True)
    assert rows_of(tmp_path / "out.zip", "images.csv") == [
        {"image": str(key), "path": "", "file": f"images/{key}.png"} for key in (1, 17)]
    with zipfile.ZipFile(tmp_path / "out.zip") as file:
        assert file.read("images/17.png") == content


def test_passwords_in_urls_are_not_archived() -> None:
    entry = Entry("a", OpenFile("https://me:secret@host/a:b@c.tif"), "")
    assert path_of(entry) == "https://host/a:b@c.tif"
    assert path_of(Entry("a", OpenFile("/data/a:b@c.tif"), "")) == "/data/a:b@c.tif"


def test_a_run_without_predictions_is_an_archive_without_rows(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.warns(UserWarning, match="1 image"):
        run = patchloom.predict(tmp_path / "in", means, tmp_path / "run", patch=32)
    assert len(run) == 0
    run.export(tmp_path / "out.zip", predictions=True, with_images=True)
    with read_archive(tmp_path / "out.zip") as archive:
        assert list(archive.rows("images")) == []
        assert list(archive.rows()) == []


@pytest.mark.parametrize(("option", "match"), [({"metadata": "xml"}, "xml"), ({"colour": "red"}, "colour")])
def test_unknown_options_are_usage_errors(
    vectors: patchloom.Run, tmp_path: Path, option: dict[str, Any], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        vectors.export(tmp_path / "out.zip", **option)
    assert not list(tmp_path.iterdir())


def test_formats_without_options_say_so(vectors: patchloom.Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metadata.*\.csv"):
        vectors.export(tmp_path / "out.csv", metadata="json")


def test_progress_is_shown_on_stderr(
    vectors: patchloom.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors.export(tmp_path / "out.zip", progress=True)
    shown = capsys.readouterr()
    assert "15/15" in shown.err
    assert not shown.out
    vectors.export(tmp_path / "out.zip")
    assert capsys.readouterr().err == ""


NAMES = ["a/b.tif", "A/B.tif", "a/b.TIF", "con", "nul.tif", "x.", "x ", "q?.tif", "q%3F.tif", "back\\slash.tif",
         "c:drive.tif", "..a", "a/b.tif/c.tif", "long" * 100, "tab\t.tif", "ü.tif", "u\u0308.tif", "~", "-rf"]


@pytest.mark.parametrize("suffix", ["", ".npy"])
def test_names_are_safe_on_any_system_and_all_different(suffix: str) -> None:
    names = MemberNames("images")
    made = [names.of(name, suffix) for name in NAMES]
    assert len({name.casefold() for name in made}) == len(NAMES)
    folders = {"/".join(name.split("/")[:i]).casefold() for name in made for i in range(1, name.count("/") + 1)}
    assert not folders & {name.casefold() for name in made}
    for name in made:
        assert name.startswith("images/")
        assert not set(name) & set('\\:*?"<>|\t')
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert part[-1] not in ". "
            assert part.split(".")[0].casefold() not in ("con", "nul")
            assert len(part) < 100


ALIKE = ["s.tif", "S.TIF", "s.tif/t", "q?", "q%3F"]


def test_images_that_are_called_alike_do_not_meet(tmp_path: Path) -> None:
    images = {name: PIXELS[:32, :32] + np.uint8(i) for i, name in enumerate(ALIKE)}
    run = patchloom.predict(images, lambda batch: batch, tmp_path / "run", patch=32)
    run.export(tmp_path / "out.zip")
    run.export(tmp_path / "out.npz")
    with read_archive(tmp_path / "out.zip") as archive, np.load(tmp_path / "out.npz") as arrays:
        rows = list(archive.rows())
        assert sorted(row["image"] for row in rows) == sorted(images)
        for row in rows:
            np.testing.assert_array_equal(archive.array(row["file"]), images[row["image"]].transpose(2, 0, 1))
        for image, name in zip(arrays["map_images"], arrays["map_names"], strict=True):
            np.testing.assert_array_equal(arrays[name], images[str(image)].transpose(2, 0, 1))
        archive.extract(tmp_path / "unpacked")
    unpacked = [path for path in (tmp_path / "unpacked" / "predictions").rglob("*") if path.is_file()]
    assert len(unpacked) == 5


EVIL = ["../evil.csv", "/etc/evil.csv", "a/../../evil.csv", "C:/evil.csv", "..\\evil.csv", ".."]


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_would_escape_is_not_opened(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("metadata.csv", "image\n")
        file.writestr(name, "evil")
    with pytest.raises(UsageError, match="outside"):
        read_archive(tmp_path / "evil.zip")


def test_an_archive_with_two_files_of_one_name_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file:
        file.writestr("metadata.csv", "image\n")
        file.writestr("Metadata.csv", "image\n")
    with pytest.raises(UsageError, match="twice"):
        read_archive(tmp_path / "twice.zip")


def test_python_objects_in_an_archive_are_refused(tmp_path: Path) -> None:
    content = io.BytesIO()
    np.save(content, np.array([{}], object))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("predictions/a.npy", content.getvalue())
    with read_archive(tmp_path / "evil.zip") as archive, pytest.raises(UsageError, match="no NPY file"):
        archive.array("predictions/a.npy")


def test_what_is_no_archive_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"no zip")
    for name in ("a.zip", "none.zip"):
        with pytest.raises(UsageError, match="no archive"):
            read_archive(tmp_path / name)


def test_archives_beyond_the_limits_of_old_zip_files_are_zip64(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    with Container(tmp_path / "big.zip") as container:
        for i in range(6):
            with container.member(f"{i}", size=2000 if i % 2 else None, compress=False) as file:
                file.write(bytes([i]) * 2000)
    content = (tmp_path / "big.zip").read_bytes()
    assert b"PK\x06\x06" in content and b"PK\x06\x07" in content  # end of a ZIP64 directory, and where it is
    with zipfile.ZipFile(tmp_path / "big.zip") as archive:
        assert all(info.extract_version >= 45 for info in archive.infolist())
        assert [archive.read(str(i)) for i in range(6)] == [bytes([i]) * 2000 for i in range(6)]


def test_members_of_unknown_size_may_pass_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1 << 16)
    with Container(tmp_path / "big.zip") as container, container.member("rows.csv") as file:
        for _ in range(20):
            file.write(RNG.bytes(1 << 16))
    with zipfile.ZipFile(tmp_path / "big.zip") as archive:
        assert archive.testzip() is None
        assert archive.getinfo("rows.csv").file_size == 20 << 16


def test_large_maps_go_through_a_file(
    everything: patchloom.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything.export(tmp_path / "1.zip")
    monkeypatch.setattr(arrays_module, "BAND_BYTES", 100)
    monkeypatch.setattr(arrays_module, "HELD_BYTES", 10)
    everything.export(tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_memory_does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    def numbers(batch: NDArray[Any]) -> NDArray[Any]:
        return batch.reshape(len(batch), -1)[:, :8].astype("f4")

    peaks = []
    for side in (400, 1600):
        image = np.random.default_rng(0).integers(0, 255, (side, side), dtype=np.uint8)
        run = patchloom.predict({"a": image}, numbers, tmp_path / f"{side}", patch=4, axes="YX")
        ArchiveExport().write(run, tmp_path / f"warm{side}.zip", image=None, head=None, level=0, predictions=True)
        tracemalloc.start()
        try:
            run.export(tmp_path / f"{side}.zip", predictions=True)
            run.export(tmp_path / f"{side}.npz")
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] + (12 << 20)  # 16 times as many rows; 5 MB of vectors are held, 10 MB in all
