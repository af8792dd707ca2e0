"""Documents of MongoDB as images, and files in GridFS."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gridfs
import numpy as np
import pymongo
import pytest
from bson import ObjectId
from PIL import Image

from patchloom.errors import ImageError, SourceError, UnreadableImageError, UsageError
from patchloom.images.sources import mongo, patience
from patchloom.images.sources.mongo import MongoSource
from patchloom.images.sources.stored import fetch_ahead
from tests.sources_db.photographs import encoded, pixels, whole


@pytest.fixture
def lab(mongodb_url: str) -> Iterator[Any]:
    """A database of the test's own."""
    client: Any = pymongo.MongoClient(mongodb_url)
    yield client.get_default_database()
    client.close()


def photographs(lab: Any, url: str, count: int = 4, **options: Any) -> MongoSource:
    lab.photos.insert_many([{"_id": n, "jpeg": encoded(n), "meta": {"number": 100 - n}} for n in range(count)])
    return MongoSource(url, lab.name, "photos", image="jpeg", **options)


def test_documents_come_in_the_order_of_their_key_with_their_pixels(lab: Any, mongodb_url: str) -> None:
    source = photographs(lab, mongodb_url)
    assert [entry.name for entry in source] == ["0", "1", "2", "3"]
    for entry in source:
        np.testing.assert_array_equal(whole(entry), pixels(int(entry.name)))


def test_pages_join_without_loss_or_repetition(lab: Any, mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongo, "PAGE", 7)
    assert [entry.name for entry in photographs(lab, mongodb_url, 49)] == [str(n) for n in range(49)]


def test_any_field_is_a_key_and_a_filter_chooses(lab: Any, mongodb_url: str) -> None:
    source = photographs(lab, mongodb_url, 9, key="meta.number", query={"_id": {"$gte": 5}})
    assert [entry.name for entry in source] == ["92", "93", "94", "95"]
    for entry in fetch_ahead(source):
        np.testing.assert_array_equal(whole(entry), pixels(100 - int(entry.name)))


def test_object_ids_name_images(lab: Any, mongodb_url: str) -> None:
    number = lab.photos.insert_one({"jpeg": encoded(1)}).inserted_id
    (entry,) = MongoSource(mongodb_url, lab.name, "photos", image="jpeg")
    assert isinstance(number, ObjectId) and entry.name == str(number)
    np.testing.assert_array_equal(whole(entry), pixels(1))


def test_files_in_gridfs_are_images(lab: Any, mongodb_url: str) -> None:
    bucket = gridfs.GridFS(lab, "slides")
    for n in range(3):
        bucket.put(encoded(n), filename=f"s/{n}.png", chunk_size=100)
    source = MongoSource(mongodb_url, lab.name, "slides", key="filename", gridfs=True)
    assert [entry.name for entry in source] == ["s/0.png", "s/1.png", "s/2.png"]
    for n, entry in enumerate(fetch_ahead(source)):
        np.testing.assert_array_equal(whole(entry), pixels(n))
    lab["slides.chunks"].delete_one({"n": 0})
    with pytest.raises(UnreadableImageError, match=r"s/\d.png: has \d+ of \d+ bytes"):
        list(map(whole, source))


def test_a_field_may_hold_paths(lab: Any, mongodb_url: str, tmp_path: Path) -> None:
    Image.fromarray(pixels(1)).save(tmp_path / "1.png")
    lab.photos.insert_many([{"_id": 1, "path": "1.png"}, {"_id": 2, "path": "../2.png"}])
    good, bad = MongoSource(mongodb_url, lab.name, "photos", image="path", root=str(tmp_path))
    np.testing.assert_array_equal(whole(good), pixels(1))
    with pytest.raises(UnreadableImageError, match="outside"):
        bad.open()


def test_a_document_without_an_image_costs_that_image_only(lab: Any, mongodb_url: str) -> None:
    lab.photos.insert_many([{"_id": 1, "jpeg": encoded(1)}, {"_id": 2}, {"_id": 3, "jpeg": None},
                            {"_id": 4, "jpeg": b"x"}, {"_id": 5, "jpeg": 7}])
    failed = []
    for entry in MongoSource(mongodb_url, lab.name, "photos", image="jpeg"):
        try:
            whole(entry)
        except ImageError as error:
            failed.append(error.message.split()[0])
    assert failed == ["2", "3", "4", "5"]


def test_identities_change_with_the_image(lab: Any, mongodb_url: str) -> None:
    source = photographs(lab, mongodb_url)
    before = {entry.name: entry.identity for entry in source}
    lab.photos.update_one({"_id": 2}, {"$set": {"jpeg": encoded(2) + b"more"}})
    after = {entry.name: entry.identity for entry in source}
    assert {name for name in before if before[name] != after[name]} == {"2"}


def test_entries_and_sources_can_be_pickled_and_rebuilt(
    lab: Any, mongodb_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATCHLOOM_SOURCE", mongodb_url)
    source = photographs(lab, mongodb_url)
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(list(source)))[3]), pixels(3))
    spec = dict(source.spec() or {})
    assert spec.pop("kind") == "mongo" and len(list(MongoSource(**spec))) == 4


@pytest.mark.parametrize(("documents", "options", "message"), [
    ([], {}, "holds no such documents"),
    ([{"_id": 1}], {"query": {"_id": 2}}, "holds no such documents"),
    ([{"_id": 1}, {"_id": "a"}], {}, "int and str are mixed"),
    ([{"_id": 1, "k": 1}, {"_id": 2}], {"key": "k"}, "missing"),
    ([{"_id": 1, "k": 1}, {"_id": 2, "k": 1}], {"key": "k"}, "more than once"),
])  # fmt: skip
def test_keys_that_name_no_images_are_refused(lab: Any, mongodb_url: str, documents, options, message: str) -> None:
    if documents:
        lab.photos.insert_many(documents)
    source = MongoSource(mongodb_url, lab.name, "photos", image="jpeg", **options)
    with pytest.raises(SourceError, match=message):
        list(source)


def test_a_server_that_is_not_there_is_an_error_within_seconds_that_hides_the_password(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo, "WAIT", 300)
    monkeypatch.setattr(patience, "FIRST", 0.3)
    with pytest.raises(SourceError) as caught:
        list(MongoSource("mongodb://me:s3cret@127.0.0.1:1", "lab", "photos", image="jpeg"))
    assert "s3cret" not in str(caught.value) and "start the server" in caught.value.hint


@pytest.mark.parametrize("url", ["mongodb://", "mongodb://me:s3cret@h:x/", "mongodb://a b@c@d"])
def test_what_is_no_url_is_an_error(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        list(MongoSource(url, "lab", "photos", image="jpeg"))
    assert "s3cret" not in str(caught.value)


def test_a_password_is_in_nothing_that_is_shown_or_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "mongodb://me:s3cret@h:27017/?tlsCertificateKeyFilePassword=s3cret&w=1"
    source = MongoSource(url, "lab", "photos", image="jpeg")
    assert "s3cret" not in f"{source!r} {source} {source.spec()}"
    monkeypatch.setenv("PATCHLOOM_SOURCE", url)
    assert MongoSource(source.spec()["url"], "lab", "photos", image="jpeg").url == url  # type: ignore[index]


def test_an_image_field_or_gridfs_is_needed() -> None:
    with pytest.raises(UsageError, match="which field"):
        MongoSource("mongodb://h", "lab", "photos")
