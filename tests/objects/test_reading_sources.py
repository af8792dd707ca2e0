"""Everything that names images takes URLs: prefixes, patterns, lists, manifests, rows of databases, mappings."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image as Pillow

import patchloom
from patchloom.cli import main
from patchloom.errors import SourceError, SourceNotFoundError, UsageError
from patchloom.geometry.region import Region
from patchloom.images.image import Image
from patchloom.images.source import as_source, from_spec
from patchloom.loop.patches import Patches
from patchloom.objects import ObjectPath, traffic
from tests.objects.test_reading import put
from tests.objects.web import Web, serving


def png(value: int, size: int = 40) -> bytes:
    file = io.BytesIO()
    Pillow.fromarray(np.full((size, size), value, np.uint8)).save(file, "png")
    return file.getvalue()


def mean(batch: np.ndarray) -> np.ndarray:
    return batch.mean((1, 2, 3), dtype=np.float32)[:, None]


@pytest.fixture
def bucket(s3_url: str, tmp_path: Path) -> ObjectPath:
    """A prefix with images at two depths, other files, a Zarr image, something hidden and a run."""
    top = ObjectPath(s3_url) / "slides"
    for i, name in enumerate(("a.png", "b/c.png", "b/d.png", "e.png")):
        (top / name).write_bytes(png(i))
    for name in ("notes.txt", ".hidden.png", ".trash/x.png", "run/run.json", "run/dense/h.png"):
        (top / name).write_bytes(png(9))
    zarr.create_array(tmp_path / "z", data=np.full((40, 40), 4, np.uint8), chunks=(10, 10), zarr_format=3)
    put(tmp_path / "z", top / "deep" / "x.zarr")
    return top


def names(source: object) -> list[str]:
    return [entry.name for entry in as_source(source)]


def test_a_prefix_is_listed_in_order_without_what_is_no_image(bucket: ObjectPath) -> None:
    before = traffic.requests
    assert names(str(bucket)) == ["a.png", "b/c.png", "b/d.png", "deep/x.zarr", "e.png"]
    assert names(f"{bucket}/") == names(str(bucket))
    assert traffic.requests - before < 40


@pytest.mark.parametrize(("pattern", "found"), [
    ("*.png", ["a.png", "e.png"]),
    ("**/*.png", ["a.png", "b/c.png", "b/d.png", "e.png"]),
    ("b/[d]*", ["d.png"]),
    ("*/*.zarr", ["deep/x.zarr"]),
    (".trash/*.png", ["x.png"]),
])
def test_a_pattern_finds_objects(pattern: str, found: list[str], bucket: ObjectPath) -> None:
    assert names(f"{bucket}/{pattern}") == found


def test_one_object_is_called_by_the_last_part_of_its_url(bucket: ObjectPath) -> None:
    assert names(f"{bucket}/b/c.png") == ["c.png"]
    assert names(f"{bucket}/deep/x.zarr") == ["x.zarr"]


def test_a_list_mixes_urls_and_files(bucket: ObjectPath, tmp_path: Path) -> None:
    (tmp_path / "f.png").write_bytes(png(1))
    assert names([f"{bucket}/b/c.png", f"{bucket}/a.png"]) == ["b/c.png", "a.png"]
    mixed = Patches([f"{bucket}/a.png", str(tmp_path / "f.png")], patch=40)
    assert [int(cut.pixels[0, 0, 0]) for cut in mixed] == [0, 1]
    with pytest.raises(SourceError, match="twice"):
        as_source(["https://host/a.png?id=1", "https://host/a.png?id=2"])


def test_a_manifest_in_a_bucket_names_objects_beside_it(bucket: ObjectPath) -> None:
    table = bucket / "b" / "list.csv"
    table.write_bytes(f"image\nc.png\n../a.png\n{bucket}/e.png\n".encode())
    source = as_source(str(table))
    assert next(iter(source)).name == "c.png"
    assert [first_pixel(entry.open()) for entry in source] == [1, 0, 3]


def first_pixel(image: Image) -> int:
    return int(image.read(Region((0, 0), (1, 1)))[0, 0])


def test_rows_of_a_database_name_objects_below_a_root(bucket: ObjectPath, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "lab.db") as db:
        db.execute("create table slides (id integer primary key, uri text)")
        db.executemany("insert into slides (uri) values (?)", [("a.png",), ("b/d.png",), ("../secret.png",),
                                                               (f"{bucket}/b/%2e%2e/%2e%2e/x.png",)])
    with pytest.warns(UserWarning, match="2 images failed"):
        run = patchloom.predict(f"sqlite:///{tmp_path}/lab.db", mean, tmp_path / "run", patch=40, model_id="mean",
                                query="select id, uri from slides", key="id", image="uri", root=str(bucket))
    assert [float(run.patch(name, 0, 0)[0]) for name in ("1", "2")] == [0, 2]
    assert {"outside" in failure.message for failure in run.failures()} == {True}


def test_a_prefix_is_predicted_from_the_command_line_and_an_object_that_changed_again(
    bucket: ObjectPath, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(bucket), "-m", "tests.objects.test_reading_sources:mean", "-o", str(tmp_path / "run"),
               "--patch", "40"]
    assert main(command) == 0
    assert re.search(r"\d\.\d MB read and 0\.0 MB written in \d+ requests", capsys.readouterr().err)
    run = patchloom.open(tmp_path / "run")
    assert [float(run.patch(name, 0, 0)[0]) for name in run] == [0, 1, 2, 4, 3]
    (bucket / "b/d.png").write_bytes(png(77))
    assert main(["resume", str(tmp_path / "run")]) == 0
    run = patchloom.open(tmp_path / "run")
    assert [float(run.patch(name, 0, 0)[0]) for name in ("b/c.png", "b/d.png")] == [1, 77]


def test_what_is_not_there_is_said_before_anything_is_made(bucket: ObjectPath) -> None:
    with pytest.raises(SourceNotFoundError, match=r"s3://.*/nowhere: there is no such object"):
        as_source(f"{bucket}/nowhere")
    with pytest.raises(SourceError, match="no image matches"):
        names(f"{bucket}/*.svs")
    with pytest.raises(SourceError, match="there is no such bucket"):
        as_source("s3://no-such-bucket-here/a/")
    with pytest.raises(SourceError, match="there is no such bucket"):
        names("s3://no-such-bucket-here/*.png")
    with pytest.raises(UsageError, match="holds no user"):
        as_source("s3://me:secret@bucket/a.png")


SECRETS = ("hunter2", "X-Amz-Signature", "0badc0de")


def test_a_signed_url_is_used_and_neither_shown_nor_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web({"/a/b c.png": png(5, 300)}, user="me:hunter2", query="X-Amz-Signature=0badc0de")
    with serving(web):
        url = web.url.replace("//", "//me:hunter2@") + "/a/b%20c.png?X-Amz-Signature=0badc0de"
        run = patchloom.predict(url, mean, tmp_path / "run", patch=300, model_id="mean")
        assert float(run.patch("b c.png", 0, 0)[0]) == 5
        text = "".join(path.read_text("latin1") for path in (tmp_path / "run").rglob("*") if path.is_file())
        assert not any(secret in text + repr(run) for secret in SECRETS)
        spec = json.loads((tmp_path / "run" / "run.json").read_text())["source"]
        with pytest.raises(SourceError, match="is not kept") as caught:
            list(from_spec(spec))
        assert not any(secret in str(caught.value) for secret in SECRETS)
        monkeypatch.setenv("PATCHLOOM_SOURCE", url)
        assert [entry.name for entry in from_spec(spec)] == ["b c.png"]
        monkeypatch.delenv("PATCHLOOM_SOURCE")
        asked = len(web.asked)
        patchloom.predict(url, mean, tmp_path / "run", patch=300, model_id="mean")
        assert len(web.asked) > asked  # its version was asked for, and it was not predicted again
        web.query = "another"
        with pytest.warns(UserWarning, match="2 images failed"):
            run = patchloom.predict([url, f"{web.url}/x.png"], mean, tmp_path / "other", patch=300, model_id="mean")
        messages = [failure.message for failure in run.failures()]
        assert all("access is denied" in message for message in messages)
        assert not any(secret in "".join(messages) for secret in SECRETS)
