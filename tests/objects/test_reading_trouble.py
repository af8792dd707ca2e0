"""Servers that are away, refuse, change things or give no ranges; and processes that were forked."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

import patchloom
from patchloom.errors import ImageTooLargeError, UnreadableImageError
from patchloom.geometry.region import Region
from patchloom.images import remote
from patchloom.images.registry import open_image
from patchloom.objects import ObjectPath
from tests.objects.test_reading_sources import png
from tests.objects.web import Web, serving
from tests.servers import free_port

PIXELS = np.random.default_rng(2).integers(0, 255, (1024, 1024), np.uint8)
REGION = Region((100, 200), (512, 512))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, tile=(256, 256), compression="zlib")
    with serving(Web({"/d/a.tif": (tmp_path / "a.tif").read_bytes(), "/empty.tif": b""})) as web:
        yield web


def test_a_web_server_is_asked_for_ranges(web: Web) -> None:
    image = open_image(f"{web.url}/d/a.tif")
    np.testing.assert_array_equal(image.read(REGION), PIXELS[REGION.slices])
    assert {command for command, _, _ in web.asked} == {"GET"}
    assert sum(size for _, _, size in web.asked) < 0.7 * len(web.files["/d/a.tif"])  # nine tiles of sixteen


def test_what_fails_for_the_moment_is_asked_for_again(web: Web) -> None:
    image = open_image(f"{web.url}/d/a.tif")
    web.failures = 3
    np.testing.assert_array_equal(image.read(REGION), PIXELS[REGION.slices])
    assert web.failures == 0


def test_an_object_without_ranges_is_copied_once(web: Web) -> None:
    web.ranges = False
    image = open_image(f"{web.url}/d/a.tif")
    for _ in range(2):
        np.testing.assert_array_equal(image.read(REGION), PIXELS[REGION.slices])
    whole = [size for command, _, size in web.asked if command == "GET" and size == len(web.files["/d/a.tif"])]
    assert len(whole) <= 3


def test_a_large_object_without_ranges_is_refused(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.ranges = False
    monkeypatch.setattr(remote, "DOWNLOADED", 1000)
    with pytest.raises(ImageTooLargeError, match="gives no parts of files"):
        open_image(f"{web.url}/d/a.tif")


def test_an_object_that_changes_while_it_is_read_is_not_mixed(web: Web) -> None:
    image = open_image(f"{web.url}/d/a.tif")
    web.files["/d/a.tif"] = web.files["/d/a.tif"][::-1]
    with pytest.raises(UnreadableImageError, match="was changed while it was read"):
        image.read(REGION)


@pytest.mark.parametrize(("place", "message"), [
    ("/d/b.tif", "there is no such object"),
    ("/empty.tif", "is empty"),
    ("/d/../../x.tif", "cannot be the name of an object"),
])
def test_what_is_not_there_is_an_error_of_one_image(place: str, message: str, web: Web) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        open_image(web.url + place)


def test_a_server_that_was_there_is_waited_for(web: Web) -> None:
    port = free_port()
    with serving(Web(web.files), port) as first:
        image = open_image(f"{first.url}/d/a.tif")
    back, done = threading.Event(), threading.Event()

    def restart() -> None:
        time.sleep(1.5)
        with serving(Web(web.files), port):
            back.set()
            done.wait(30)

    thread = threading.Thread(target=restart)
    thread.start()
    try:
        np.testing.assert_array_equal(image.read(REGION), PIXELS[REGION.slices])
        assert back.is_set()
    finally:
        done.set()
        thread.join()


def test_an_unreachable_server_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATCHLOOM_PATIENCE", "1")
    begin = time.monotonic()
    with pytest.raises(UnreadableImageError, match=r"the server 127\.0\.0\.1:\d+ cannot be reached"):
        open_image(f"http://127.0.0.1:{free_port()}/a.tif?X-Amz-Signature=secret")
    assert time.monotonic() - begin < 5


def test_images_that_fail_cost_only_themselves(s3_url: str, tmp_path: Path) -> None:
    top = ObjectPath(s3_url)
    for name, data in (("a.png", png(1)), ("b.tif", b"II*\0" + bytes(100)), ("c.png", png(3))):
        (top / name).write_bytes(data)
    with pytest.warns(UserWarning, match="1 image failed"):
        run = patchloom.predict(s3_url, lambda batch: batch.mean((2, 3)), tmp_path / "run", patch=40, model_id="mean")
    assert [failure.image for failure in run.failures()] == ["b.tif"]
    assert len(list(run)) == 2


def _read_in_child(url: str, answers: multiprocessing.Queue[str]) -> None:
    try:
        answers.put(str(open_image(url).info.shape))
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(("method", "says"), [("fork", "UsageError: .*spawn"), ("spawn", r"\(1024, 1024\)")])
def test_a_forked_worker_says_what_to_do_and_a_spawned_one_reads(method: str, says: str, web: Web) -> None:
    url = f"{web.url}/d/a.tif"
    open_image(url)
    context = multiprocessing.get_context(method)
    answers: multiprocessing.Queue[str] = context.Queue()
    worker = context.Process(target=_read_in_child, args=(url, answers))
    worker.start()
    try:
        assert re.search(says, answers.get(timeout=30))
    finally:
        worker.kill()
        worker.join()


def test_a_process_that_forks_before_it_reads_needs_nothing_special(web: Web) -> None:
    program = ("import multiprocessing, sys\nfrom tests.objects.test_reading_trouble import _read_in_child as work\n"
               "context = multiprocessing.get_context('fork')\nanswers = context.Queue()\n"
               "context.Process(target=work, args=(sys.argv[1], answers)).start()\nprint(answers.get(timeout=30))")
    done = subprocess.run([sys.executable, "-c", program, f"{web.url}/d/a.tif"], capture_output=True, text=True,
                          timeout=60, cwd=Path(__file__).parents[2], check=True)
    assert done.stdout.strip() == "(1024, 1024)"


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(patchloom.PatchloomError, match=r"patchloom\[objects\]"):
        open_image("s3://bucket/a.tif")


def test_a_refused_request_names_no_secret(web: Web) -> None:
    web.user = "me:hunter2"
    with pytest.raises(UnreadableImageError, match=r"access is denied \(403 Forbidden, AccessDenied\)") as caught:
        open_image(f"{web.url.replace('//', '//me:wrong-hunter2@')}/d/a.tif")
    assert "hunter2" not in str(caught.value)
