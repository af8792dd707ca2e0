"""The tour behind `patchloom demo`: scenes, a run that is interrupted and resumed, its quality, a lookup, a picture."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import patchloom
from patchloom.demo.files import overview_of, rows_of, window_of, write_scene
from patchloom.demo.nodes import two_nodes
from patchloom.demo.picture import View, draw_picture, most_varied
from patchloom.demo.quality import Confusion
from patchloom.demo.scenes import CLASSES, SCENES, SPACING, Scene
from patchloom.errors import Interrupted, OutputError, PatchloomError, RunError, UsageError
from patchloom.run import ImagePredictions

__all__ = ["run_demo"]

PATCH, OVERLAP = 512, 64
STRIDE = PATCH - OVERLAP
OPTIONS = ("--patch", str(PATCH), "--overlap", str(OVERLAP), "--scale", "255", "--reduce", "argmax")
INTERRUPT_AT = 0.2
"""Part of the largest image that is committed when the run is interrupted."""
OVERVIEW = 16
"""Pixels of the section that become one in the picture's upper row."""
DETAIL = 512
"""Pixels of the section, per side, in the picture's lower row."""


def run_demo(folder: Path, *, console: Console, scenes: Sequence[Scene] = SCENES, cluster: bool = False) -> int:
    """Show what patchloom does, from images to a picture of the predictions.

    Parameters
    ----------
    folder
        Working folder; scenes that are there already are used again, a run that is there is made anew.
    console
        For progress. Results go to standard output.
    scenes
        What to predict on; the first one is looked at closely.
    cluster
        Whether to predict on a Ray cluster of two nodes, which is started for it on this machine.

    Returns
    -------
    int
        Exit code, 0.

    Raises
    ------
    PatchloomError
        If a step of the tour fails.
    Interrupted
        If the user stops it.
    """
    started = time.monotonic()
    out = Console(highlight=False, soft_wrap=True)
    tour = Tour(folder, out, console, scenes, cluster=cluster)
    try:
        tour.make_scenes()
        tour.predict()
        quality = tour.measure()
        tour.look_up()
        tour.draw(quality)
    except KeyboardInterrupt:
        raise Interrupted("stopped cleanly", f"run it again: scenes in {folder} are kept") from None
    except PatchloomError:
        raise
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: {error.strerror or error}", "choose another folder") from error
    tour.suggest()
    out.print(f"\n{time.monotonic() - started:.0f} seconds in all")
    return 0


class Tour:
    """The steps, in order."""

    def __init__(
        self, folder: Path, out: Console, console: Console, scenes: Sequence[Scene], *, cluster: bool = False
    ) -> None:
        self._folder, self._out, self._console, self._cluster = folder, out, console, cluster
        self._environment: dict[str, str] = {}
        self._scenes, self._section = scenes, scenes[0]
        self._images, self._truth, self._run = (folder / name for name in ("scenes", "truth", "run"))
        self._model = folder / "demo.onnx"
        self._picture = folder.with_name(f"{folder.name}.png")

    def make_scenes(self) -> None:
        """Write scenes, their truth and the model into the working folder."""
        missing = [scene for scene in self._scenes if not (self._images / scene.name).exists()
                   or not (self._truth / scene.name).exists()]
        self._folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("patchloom.demo") / "demo.onnx") as model:
            shutil.copyfile(model, self._model)
        with self._step(1, "Images, and the truth about every pixel"):
            self._write(missing)
            for scene in self._scenes:
                size = (self._images / scene.name).stat().st_size / 1e6
                pixels = f"{scene.shape[0]:,} x {scene.shape[1]:,} pixels"
                self._say(f"{self._images / scene.name!s:<44} {pixels:>21}  {size:5.1f} MB")
            self._say("made just now" if missing else "made by an earlier demo, used again")

    def _write(self, scenes: list[Scene]) -> None:
        columns = (TextColumn("   {task.description}"), BarColumn(), TimeElapsedColumn())
        quiet = not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=quiet) as progress:
            task = progress.add_task("making scenes", total=sum(scene.shape[0] * scene.shape[1] for scene in scenes))
            for scene in scenes:
                write_scene(scene, self._images / scene.name, self._truth / scene.name,
                            threads=min(8, os.cpu_count() or 1), done=lambda n: progress.advance(task, n))

    def predict(self) -> None:
        """Predict in a process of its own, stop it by Ctrl-C's signal on the way, and resume."""
        more = ["--executor", "ray", "--workers", "2"] if self._cluster else []
        command = ["predict", str(self._images), "-m", str(self._model), "-o", str(self._run), *OPTIONS, *more,
                   "--overwrite"]
        with self._step(2, "Predict, interrupted once on purpose"), self._nodes():
            code = self._command(command, interrupt=True)
            if code in (130, -signal.SIGINT):  # the latter where it ended just before it was told to
                self._say(f"interrupted, exit code {code}: {self._progress_of_run()}")
                code = self._command(["resume", str(self._run)])
            if code != 0:
                raise RunError(f"the run in {self._run} ended with exit code {code}", "its own message is above")
            self._say(self._progress_of_run())

    @contextmanager
    def _nodes(self) -> Iterator[None]:
        """The cluster, where one is wanted: processes that are started in here know its address."""
        if not self._cluster:
            yield
            return
        with two_nodes() as self._environment:
            self._say(f"a Ray cluster of two nodes on this machine: {self._environment['RAY_ADDRESS']}")
            yield

    def _command(self, arguments: list[str], *, interrupt: bool = False) -> int:
        self._say(f"$ patchloom {shlex.join(arguments)}", "bold")
        sys.stdout.flush()
        before = self._stamp()
        with _default_interrupt():
            process = subprocess.Popen([sys.executable, "-m", "patchloom", *arguments],
                                       env=os.environ | self._environment)
        try:
            if interrupt and os.name == "posix":
                self._interrupt(process, before)
            return process.wait()
        except KeyboardInterrupt:  # it reaches the other process, too
            process.wait()
            raise
        finally:
            if process.poll() is None:
                process.kill()

    def _interrupt(self, process: subprocess.Popen[bytes], before: int | None) -> None:
        run = None
        while process.poll() is None:
            time.sleep(0.1)
            if run is None and self._stamp() not in (None, before):
                run = patchloom.open(self._run)
            done = _part_done(run, self._section.name) if run is not None else 0
            if done >= INTERRUPT_AT:
                if done < 1:
                    process.send_signal(signal.SIGINT)
                return

    def _stamp(self) -> int | None:
        """When the run in the folder was begun, None where there is none."""
        try:
            return (self._run / "run.json").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def _progress_of_run(self) -> str:
        status = patchloom.open(self._run).status()
        partial = [f", {image.image} at {image.patches_done / image.patches:.0%}" for image in status.images()
                   if image.state == "partial"]
        return f"{status.done} of {status.done + status.failed + status.left} images complete{''.join(partial)}"

    def measure(self) -> Confusion:
        """Compare the stitched maps with the truth, a band of rows at a time; gives the section's quality."""
        run = patchloom.open(self._run)
        counts = []
        with self._step(3, "Quality against the truth"):
            images, classes = _table("image", "mean IoU", "pixels right"), _table("class", "IoU", "part of the truth")
            for scene in self._scenes:
                counted = Confusion.empty(CLASSES)
                stitched = run[scene.name].stitched()
                for y, truth in rows_of(self._truth / scene.name):
                    counted += Confusion.of(CLASSES, truth, np.asarray(stitched[y : y + len(truth)]))
                images.add_row(f"   {scene.name}", f"{counted.mean_iou:.3f}", f"{counted.accuracy:.1%}")
                counts.append(counted)
            total = sum(counts, Confusion.empty(CLASSES))
            images.add_row("   all", f"{total.mean_iou:.3f}", f"{total.accuracy:.1%}", style="bold")
            for name, share in total.shares.items():
                classes.add_row(f"   {name}", f"{total.iou[name]:.3f}" if name in total.iou else "-", f"{share:.1%}")
            self._out.print(images)
            self._out.print()
            self._out.print(classes)
        return counts[0]

    def look_up(self) -> None:
        """One patch by image and position."""
        name, (y, x) = self._section.name, self._place
        with self._step(4, "Look up one patch"):
            began = time.perf_counter()
            labels = patchloom.open(self._run).patch(name, y, x)
            milliseconds = 1e3 * (time.perf_counter() - began)
            if labels is None:
                raise RunError(f"{self._run} has no patch of {name} at {y}, {x}")
            shares = np.bincount(labels.ravel(), minlength=len(CLASSES)) / labels.size
            self._say(f'patchloom.open("{self._run}").patch("{name}", {y}, {x})')
            shown = [f"{name} {share:.0%}" for name, share in zip(CLASSES, shares, strict=True) if share >= 0.005]
            self._say(f"{labels.dtype} of shape {labels.shape}: {', '.join(shown)}")
            self._say(f"opened and read in {milliseconds:.0f} ms")

    def draw(self, quality: Confusion) -> None:
        """Input, prediction and truth of the largest image side by side."""
        section = self._section
        with self._step(5, "A picture"):
            predictions = patchloom.open(self._run)[section.name]
            stitched = predictions.stitched()
            bands = rows_of(self._truth / section.name)
            truth = np.concatenate([rows[::OVERVIEW, ::OVERVIEW].copy() for _, rows in bands])
            size = DETAIL // OVERVIEW
            top, left = most_varied(truth, size)
            box = (top / len(truth), left / truth.shape[1], size / len(truth), size / truth.shape[1])
            overview = overview_of(self._images / section.name)
            whole = View(overview, _reduced(predictions), truth, SPACING * OVERVIEW, box)
            here = slice(top * OVERVIEW, top * OVERVIEW + DETAIL), slice(left * OVERVIEW, left * OVERVIEW + DETAIL)
            part = View(window_of(self._images / section.name, *here), np.asarray(stitched[here]),
                        window_of(self._truth / section.name, *here), SPACING)
            title = f"{section.name}, {section.shape[0]:,} x {section.shape[1]:,} pixels, predicted in patches of 512"
            draw_picture(self._picture, title, whole, part, quality)
            self._say(str(self._picture))

    @property
    def _place(self) -> tuple[int, ...]:
        """Origin of a patch about the middle of the section."""
        return tuple(n // 2 // STRIDE * STRIDE for n in self._section.shape)

    def suggest(self) -> None:
        """Commands to go on with."""
        name, tiff, (y, x) = self._section.name, self._folder / "classes.tif", self._place
        self._out.print("\n[bold]What to try next[/bold]")
        for arguments in (
            f"status {self._run}", f"patch {self._run} {name} {y} {x} --json",
            f"export {self._run} {tiff} --image {name}", f"verify {self._run}",
            "predict YOUR-IMAGES -m YOUR-MODEL.onnx -o run --dry-run",
        ):
            self._say(f"patchloom {arguments}")

    def _say(self, text: str, style: str = "") -> None:
        self._out.print(f"   {text}", markup=False, style=style)

    @contextmanager
    def _step(self, number: int, title: str) -> Iterator[None]:
        self._out.print(f"\n[bold]{number}  {title}[/bold]")
        began = time.monotonic()
        yield
        self._say(f"{time.monotonic() - began:.1f} s", "dim")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column(f"   {first}")
    for title in others:
        table.add_column(title, justify="right")
    return table


def _reduced(predictions: ImagePredictions) -> NDArray[np.uint8]:
    """Every 16th row and column of a map, read from its pyramid."""
    for level in range(OVERVIEW.bit_length() - 1, 0, -1):
        with suppress(UsageError):  # a small map has fewer levels
            step = OVERVIEW >> level
            return np.asarray(predictions.stitched(level=level)[::step, ::step])
    return np.asarray(predictions.stitched()[::OVERVIEW, ::OVERVIEW])


def _part_done(run: patchloom.Run, name: str) -> float:
    found = next((image for image in run.status().images() if image.image == name), None)
    return found.patches_done / found.patches if found is not None and found.patches else 0.0


@contextmanager
def _default_interrupt() -> Iterator[None]:
    """A process started in here takes Ctrl-C, also where this one was told to ignore it (``nohup``, ``&``)."""
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
