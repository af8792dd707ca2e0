"""A run in object storage is what it would have been in a folder."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

import patchloom
from patchloom.cli import main
from patchloom.errors import (
    ConfigMismatchError,
    MissingExtraError,
    OutputError,
    RunDamagedError,
    RunError,
    RunLockedError,
    RunNotFoundError,
)
from patchloom.events import Event, PatchesPredicted, UnitCommitted
from patchloom.objects import ObjectPath, traffic
from patchloom.predictions import journal, lock
from patchloom.predictions.files import name_in
from patchloom.predictions.index import Index
from patchloom.predictions.journal import Journal, compact, logs, read_log
from patchloom.predictions.lock import Lock
from tests.servers import Server

MODEL = "tests.objects.slow_model:predict"
SHAPES = [(1300, 200), (90, 70), (1100, 130), (40, 200)]
OPTIONS: dict[str, Any] = {"patch": 64, "overlap": 16, "batch": 4, "threads": 2}
SCRIPT = f"""
import sys, patchloom
patchloom.predict(sys.argv[1], {MODEL!r}, sys.argv[2], **{OPTIONS!r})
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of one unit and of several."""
    folder = tmp_path_factory.mktemp("images")
    for i, (height, width) in enumerate(SHAPES):
        np.save(folder / f"{i}.npy", np.arange(height * width, dtype=np.uint32).reshape(height, width) % 60_000)
    return folder


@pytest.fixture(scope="module")
def local(images: Path, tmp_path_factory: pytest.TempPathFactory) -> patchloom.Run:
    return patchloom.predict(images, MODEL, tmp_path_factory.mktemp("local") / "run", **OPTIONS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(s3_url: str) -> str:
    return f"{s3_url}/a lab/run"


@pytest.fixture
def made(images: Path, url: str) -> patchloom.Run:
    return patchloom.predict(images, MODEL, url, **OPTIONS)


class Line:
    """A connection to a server that can be cut."""

    def __init__(self, target: int) -> None:
        self._target, self._open, self.refused = target, True, 0
        self._pairs: set[socket.socket] = set()

    def __enter__(self) -> Line:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()
        self._listening.close()

    def cut(self) -> None:
        """End all connections and take no new ones."""
        self._open = False
        for one in list(self._pairs):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._open = True

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                if not self._open:
                    self.refused += 1
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._target))
                self._pairs |= {here, there}
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def start(images: Path, url: str) -> subprocess.Popen[bytes]:
    """The run in a process of its own, slow enough to be killed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PAUSE": "0.01"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(images), url], env=environment, stderr=subprocess.PIPE)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < limit, "nothing happened"
        time.sleep(0.02)


def units(url: str) -> int:
    """Units that are committed, as a reader sees them."""
    found = logs(ObjectPath(url) / "journal")
    return sum(record["is"] == "unit" for path in found for _, record in read_log(path, strict=False))


def same(found: patchloom.Run, expected: patchloom.Run) -> None:
    """Maps and tables of two runs are equal."""
    assert list(found) == list(expected)
    for name in expected:
        for level in (0, 1):
            if level == 0 or max(expected[name].stitched().shape) > 512:
                there, here = (run[name].stitched(level=level)[:] for run in (found, expected))
                np.testing.assert_array_equal(there, here)
    assert found.patches().to_arrow().equals(expected.patches().to_arrow())


def contents(run: patchloom.Run) -> dict[str, bytes]:
    """Maps and tables, byte for byte."""
    path = run.path
    files = path.sizes() if isinstance(path, ObjectPath) else [p for p in path.rglob("*") if p.is_file()]
    named = {name_in(path, file): file for file in files}
    return {name: file.read_bytes() for name, file in named.items() if name.startswith(("dense/", "patches/"))}


class TestEqualToAFolder:
    def test_what_is_written_and_read_is_the_same(self, made: patchloom.Run, local: patchloom.Run, url: str) -> None:
        opened = patchloom.open(url)
        assert opened.status().done == len(SHAPES)
        assert opened.verify() == []
        same(opened, local)
        maps = {name: data for name, data in contents(local).items() if name.endswith(("json", "/0"))}
        stored = contents(made)
        assert maps
        assert {name: stored[name] for name in maps} == maps
        for name in local:
            for key in list(local[name])[::9]:
                found = opened.patch(name, *key)
                for head, value in local[name][key].items():
                    np.testing.assert_array_equal(found[head], value)

    def test_other_programs_read_it(self, made: patchloom.Run, local: patchloom.Run, url: str) -> None:
        from obstore.store import from_url
        from zarr.storage import ObjectStore

        store = from_url(url, client_options={"allow_http": True})
        array = zarr.open_array(ObjectStore(store, read_only=True), path="dense/map/0.npy.zarr/0", mode="r")
        np.testing.assert_array_equal(array[:], local["0.npy"].stitched()[:])
        tables = [io.BytesIO(path.read_bytes()) for path in (ObjectPath(url) / "patches").rglob("*.parquet")]
        assert sum(pq.read_table(table).num_rows for table in tables) == len(local.patches())

    def test_query_export_and_copy_read_from_it(
        self, made: patchloom.Run, local: patchloom.Run, tmp_path: Path
    ) -> None:
        wanted = {"where": "prediction > 400", "sort": "-prediction,image", "limit": 7}
        assert made.patches(**wanted).to_arrow().equals(local.patches(**wanted).to_arrow())
        assert len(made.patches(image="0.npy")) == len(local.patches(image="0.npy"))
        for name in ("all.zip", "all.csv"):
            made.export(tmp_path / name)
            local.export(tmp_path / f"local-{name}")
            assert (tmp_path / name).read_bytes() == (tmp_path / f"local-{name}").read_bytes(), name
        made.export(tmp_path / "one.tif", image="0.npy")
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "one.tif"), local["0.npy"].stitched()[:].squeeze())
        made.copy(to=f"json:{tmp_path}/json")
        copied = patchloom.open(str(made.path), store=f"json:{tmp_path}/json")
        assert copied.patch("1.npy", 0, 0, head="score") == local.patch("1.npy", 0, 0, head="score")

    def test_the_command_line_takes_its_url(
        self, made: patchloom.Run, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def patchloom_says(*words: str, code: int = 0) -> str:
            assert main(list(words)) == code
            return "".join(capsys.readouterr())

        assert json.loads(patchloom_says("status", url, "--json"))["done"] == len(SHAPES)
        assert json.loads(patchloom_says("patch", url, "1.npy", "0", "0", "--json"))["image"] == "1.npy"
        patchloom_says("export", url, str(tmp_path / "out.csv"))
        assert (tmp_path / "out.csv").read_text().startswith("image,")
        patchloom_says("verify", url)
        assert "run-not-found" in patchloom_says("status", f"{url}2", code=2)
        assert "written to files" in patchloom_says("export", url, f"{url}.csv", code=2)

    def test_a_run_is_resumed_refused_and_discarded(self, made: patchloom.Run, images: Path, url: str) -> None:
        events: list[Event] = []
        patchloom.predict(images, MODEL, url, callbacks=[events.append], **OPTIONS)
        assert not [event for event in events if isinstance(event, PatchesPredicted)]
        with pytest.raises(ConfigMismatchError):
            patchloom.predict(images, MODEL, url, **OPTIONS | {"patch": 32})
        again = patchloom.predict(images, MODEL, url, overwrite=True, **OPTIONS | {"patch": 32})
        assert again.verify() == []
        assert again.patch("1.npy", 0, 16, head="score") is not None
        assert patchloom.open(url).patch("1.npy", 0, 16, head="score") is not None

    def test_a_changed_image_is_predicted_again(self, url: str, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.ones((700, 64), np.uint32))
        run = patchloom.predict(tmp_path / "a.npy", MODEL, url, **OPTIONS)
        assert run.patch("a.npy", 0, 0, head="score") == 1
        np.save(tmp_path / "a.npy", np.full((700, 64), 2, np.uint32))
        run.resume()
        assert run.patch("a.npy", 0, 0, head="score") == 2
        assert run.verify() == []

    def test_no_credentials_are_written(self, made: patchloom.Run, cache: Path) -> None:
        secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
        stored = [path.read_bytes() for path in ObjectPath(str(made.path)).sizes()]
        kept = [path.read_bytes() for path in cache.rglob("*") if path.is_file()]
        assert kept
        assert not any(secret in content for content in stored + kept)


class TestRequests:
    def test_one_lookup_is_a_few_requests_whatever_the_run_holds(self, made: patchloom.Run, url: str) -> None:
        patchloom.open(url)
        before = traffic.requests
        run = patchloom.open(url)
        assert traffic.requests - before <= 2, "the description, and which logs there are"
        before, read = traffic.requests, traffic.read
        assert run.patch("0.npy", 624, 48) is not None
        assert traffic.requests - before <= 8
        assert traffic.read - read < 1 << 20
        before = traffic.requests
        assert run.patch("0.npy", 624, 96, head="score") is not None
        assert traffic.requests - before <= 8

    def test_an_index_follows_a_journal_that_is_compacted(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = ObjectPath(url) / "journal"
        monkeypatch.setattr(journal, "LOG_BYTES", 1)
        writer = Journal(folder)
        index = Index(ObjectPath(url))
        for i in range(20):
            writer.append({"is": "listed", "images": [f"{i}"]})
        index.refresh()
        assert index.counts()["left"] == 20
        listed = journal.logs

        def vanishing(where: ObjectPath) -> Any:
            found = listed(where)
            monkeypatch.setattr("patchloom.predictions.index.logs", listed)
            writer.append({"is": "listed", "images": ["last"]})
            compact(where)
            return found | {where / "000000-gone.jsonl": 1}

        monkeypatch.setattr("patchloom.predictions.index.logs", vanishing)
        index.refresh()
        assert index.counts()["left"] == 21
        index.close()
        writer.close()

    def test_a_journal_is_few_objects_and_read_once(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = ObjectPath(url) / "journal"
        writer = Journal(folder)
        for i in range(40):
            writer.append({"is": "listed", "images": [f"{i}"]})
        writer.append({"is": "listed", "images": ["last"]}, durable=False)
        assert len(logs(folder)) == 1
        [(path, size)] = logs(folder).items()
        records = list(read_log(path))
        assert len(records) == 40
        before = traffic.read
        assert list(read_log(path, records[-2][0])) == records[-1:]
        assert traffic.read - before < size // 10
        monkeypatch.setattr(journal, "LOG_BYTES", 100)
        for i in range(20):
            writer.append({"is": "listed", "images": [f"{'x' * 100}{i}"]})
        writer.close()
        assert len(logs(folder)) > 16
        everything = [record for path in logs(folder) for _, record in read_log(path)]
        compact(folder)
        assert len(logs(folder)) == 1
        assert [record for path in logs(folder) for _, record in read_log(path)] == everything
        assert len(everything) == 61


class TestKilled:
    def test_a_killed_run_resumes_to_what_it_would_have_been(
        self, images: Path, url: str, local: patchloom.Run
    ) -> None:
        process = start(images, url)
        try:
            wait_for(lambda: units(url) >= 2, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        kept = patchloom.open(url)
        assert kept.verify() == []
        assert kept.status().left
        done = {(name, *key) for name in kept for key in kept[name]}
        events: list[Event] = []
        run = kept.resume(callbacks=[events.append])
        predicted = sum(event.patches for event in events if isinstance(event, PatchesPredicted))
        assert 0 < len(done) < len(local.patches())
        assert predicted <= len(local.patches()) - len(done)
        assert run.verify() == []
        same(run, local)

    def test_two_drivers_are_one_too_many(self, images: Path, url: str) -> None:
        process = start(images, url)
        try:
            wait_for((ObjectPath(url) / "lock").is_file, process)
            with pytest.raises(RunLockedError, match=f"process {process.pid}"):
                patchloom.predict(images, MODEL, url, **OPTIONS)
        finally:
            process.kill()
            process.communicate()


class TestLease:
    @pytest.fixture
    def path(self, url: str) -> ObjectPath:
        return ObjectPath(url) / "lock"

    def elsewhere(self, path: ObjectPath, renewed: float) -> None:
        """A lease that another machine holds."""
        lease = {"token": "theirs", "host": "elsewhere", "boot": "", "pid": 7, "started": "1", "renewed": renewed}
        path.write_bytes(json.dumps(lease).encode())

    def test_a_lease_is_void_a_minute_after_its_last_renewal(self, path: ObjectPath) -> None:
        self.elsewhere(path, time.time() - lock.STALE + 20)
        with pytest.raises(RunLockedError, match="process 7 on elsewhere"):
            Lock(path)
        self.elsewhere(path, time.time() - lock.STALE - 1)
        Lock(path).release()
        assert not path.is_file()

    def test_of_many_who_find_it_void_one_gets_it(self, path: ObjectPath) -> None:
        self.elsewhere(path, 0)
        taken: list[Lock] = []
        refused: list[RunLockedError] = []

        def take() -> None:
            try:
                taken.append(Lock(path))
            except RunLockedError as error:
                refused.append(error)

        threads = [threading.Thread(target=take) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(taken), len(refused)) == (1, 3)
        taken[0].check()
        taken[0].release()

    def test_it_is_renewed_while_its_holder_lives(self, path: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock, "HEARTBEAT", 0.05)
        with Lock(path):
            first = json.loads(path.read_bytes())["renewed"]
            limit = time.monotonic() + 20
            while json.loads(path.read_bytes())["renewed"] == first:
                assert time.monotonic() < limit
                time.sleep(0.02)

    def test_who_lost_it_stops_before_the_next_commit(self, images: Path, url: str, path: ObjectPath) -> None:
        before: list[int] = []

        def steal(event: Event) -> None:
            if isinstance(event, UnitCommitted) and not before:
                self.elsewhere(path, time.time())
                before.append(units(url))

        with pytest.raises(RunLockedError, match="lost the lease"):
            patchloom.predict(images, MODEL, url, callbacks=[steal], **OPTIONS)
        assert units(url) == before[0]
        assert json.loads(path.read_bytes())["token"] == "theirs"
        assert patchloom.open(url).verify() == []

    def test_a_log_that_somebody_else_removed_is_not_put_again(self, url: str) -> None:
        folder = ObjectPath(url) / "journal"
        writer = Journal(folder)
        writer.append({"is": "listed", "images": ["a"]})
        for path in logs(folder):
            path.unlink()
        with pytest.raises(RunLockedError):
            writer.append({"is": "listed", "images": ["b"]})
        assert logs(folder) == {}


class TestAway:
    """A server that goes away in the middle of a run."""

    @pytest.fixture
    def line(self, s3_server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
        with Line(int(s3_server.url.rpartition(":")[2])) as line:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{line.port}")
            yield line

    def at_the_first_unit(self, do: Callable[[], None]) -> Callable[[Event], None]:
        left = [do]

        def listen(event: Event) -> None:
            if isinstance(event, UnitCommitted) and left:
                left.pop()()

        return listen

    def test_for_a_moment_the_run_waits_and_goes_on(
        self, line: Line, images: Path, url: str, local: patchloom.Run
    ) -> None:
        def cut() -> None:
            line.cut()
            threading.Timer(0.7, line.mend).start()

        run = patchloom.predict(images, MODEL, url, callbacks=[self.at_the_first_unit(cut)], **OPTIONS)
        assert line.refused
        assert run.verify() == []
        same(run, local)

    def test_for_long_the_run_stops_and_is_resumed(
        self, line: Line, images: Path, url: str, local: patchloom.Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATCHLOOM_PATIENCE", "0.5")
        with pytest.raises(OutputError, match="cannot be reached") as caught:
            patchloom.predict(images, MODEL, url, callbacks=[self.at_the_first_unit(line.cut)], **OPTIONS)
        assert "patchloom resume" in caught.value.hint
        line.mend()
        run = patchloom.open(url)
        assert run.verify() == []
        assert run.status().left
        run.resume()
        assert run.verify() == []
        same(run, local)


def test_the_page_says_what_is_so(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).parents[2] / "docs" / "objects.md"
    section = page.read_text(encoding="utf-8").partition("## Runs in object storage")[2].partition("\n## ")[0]
    names: dict[str, Any] = {"bucket": s3_url}
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    assert len(names["run"]["S-017"]) == 6
    assert list(tmp_path.iterdir()) == [tmp_path / "cache"]


class TestDamage:
    @pytest.mark.parametrize("kind", ["score", "map", "journal"])
    def test_verify_names_what_is_not_as_it_was_written(self, made: patchloom.Run, url: str, kind: str) -> None:
        names = [path for path in ObjectPath(url).sizes() if kind in str(path) and not str(path).endswith(".json")]
        damaged, missing = sorted(names)[0], sorted(names)[-1]
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(bytes(data))
        if missing != damaged:
            missing.unlink()
        found = {damage.path: damage.problem for damage in made.verify()}
        relative = damaged.relative_to(ObjectPath(url)).as_posix()
        assert "damaged" in found[relative] or found[relative] == "changed: its checksum does not fit"
        if missing != damaged:
            assert found[missing.relative_to(ObjectPath(url)).as_posix()] == "missing"

    def test_a_damaged_table_is_an_error_of_its_own(self, made: patchloom.Run, url: str) -> None:
        for path in ObjectPath(url).sizes():
            if path.suffix == ".parquet":
                path.write_bytes(path.read_bytes()[:-20] + b"x" * 20)
        with pytest.raises(RunDamagedError, match="parquet"):
            patchloom.open(url).patch("1.npy", 0, 0)
        with pytest.raises(RunDamagedError, match="parquet"):
            patchloom.open(url).patches().to_arrow()


class TestMistakes:
    def test_no_bucket(self, s3_url: str, images: Path) -> None:
        with pytest.raises(RunError, match="no such bucket"):
            patchloom.predict(images, MODEL, "s3://no-such-bucket-here/run", **OPTIONS)
        with pytest.raises(RunNotFoundError):
            patchloom.open("s3://no-such-bucket-here/run")

    def test_no_permission(self, s3_url: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Refusing(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(403)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_HEAD  # noqa: N815 - names of http.server

            def log_message(self, *args: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Refusing) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            for call in (lambda: patchloom.predict(images, MODEL, f"{s3_url}/run"), lambda: patchloom.open(s3_url)):
                with pytest.raises(RunError, match="access is denied"):
                    call()
            server.shutdown()

    def test_a_prefix_with_other_objects(self, url: str, images: Path) -> None:
        (ObjectPath(url) / "thesis.docx").write_bytes(b"years of work")
        with pytest.raises(OutputError, match="other files"):
            patchloom.predict(images, MODEL, url, overwrite=True, **OPTIONS)
        assert [path.name for path in ObjectPath(url).sizes()] == ["thesis.docx"]

    def test_a_run_that_never_began_leaves_nothing(self, url: str, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(patchloom.PatchloomError):
            patchloom.predict(tmp_path / "empty", MODEL, url, **OPTIONS)
        assert ObjectPath(url).sizes() == {}

    def test_obstore_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "obstore", None)
        with pytest.raises(MissingExtraError, match="obstore"):
            patchloom.open("s3://bucket/run")

    def test_a_server_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("PATCHLOOM_PATIENCE", "0.2")
        with pytest.raises(RunError, match="s3://away") as caught:
            patchloom.open("s3://away/run")
        assert "AWS_SECRET" not in str(caught.value)
