"""Predicting and resuming: plans, config files, progress, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from patchloom.cli.progress import duration, resumed_line, shortened, stopped_lines
from patchloom.events import RunFinished, RunStarted
from tests.cli.conftest import PATCH, ROOT, Call, start, write_image

SCORES = ("-m", "tests.cli.models:scores", *PATCH)


def test_a_plan_is_printed_and_nothing_is_written(call: Call, with_bad: Path, tmp_path: Path) -> None:
    ended = call("predict", with_bad, *SCORES, "-o", tmp_path / "run", "--dry-run")
    first, second, *_, last = ended.out.splitlines()
    assert (ended.code, ended.err) == (0, "")
    assert first.startswith("plan     2 images, 1 unreadable · 2 patches · output about ")
    assert re.match(r"memory   .* projected of .* allowed · device cpu · batch \d+", second)
    assert last == "nothing written (--dry-run)"
    assert list(tmp_path.iterdir()) == []


def test_a_plan_needs_no_folder_and_is_one_json_document(call: Call, slides: Path) -> None:
    ended = call("predict", slides, *SCORES, "--dry-run", "--json")
    assert ended.code == 0 and ended.out.count("\n") == 1
    plan = ended.json
    assert (plan["images"], plan["unreadable"], plan["patches"]) == (2, 0, 7)
    assert plan["heads"][0]["kind"] == "vector"


def test_a_saved_configuration_makes_the_same_run(call: Call, slides: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "run.toml", tmp_path / "run"
    args = ("predict", slides, *SCORES, "-o", run, "--overlap", 16, "--classes", "tumour,stroma", "--fail-fast")
    ended = call(*args, "--dry-run", "--save-config", file)
    assert ended.code == 0 and ended.out.splitlines()[-1] == f"{file} written, nothing else (--dry-run)"
    saved = tomllib.loads(file.read_text())
    assert saved["patch"] == [64] and saved["classes"] == ["tumour", "stroma"] and saved["out"] == str(run)
    assert saved["fail-fast"] is True
    assert all(f"--{name}" in call("predict", "--help").out for name in saved if name != "source")
    assert call("predict", "--config", file).code == 0
    again = call(*args)
    assert again.code == 0 and again.err.startswith("resumed: 2 images reused, 0 images left\n")


def test_flags_override_the_config_file(call: Call, slides: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "tests.cli.models:scores"\npatch = 32\noverlap = 8\nallow-pickle = false\n')
    plans = [call("predict", slides, "--config", file, "--dry-run", "--json", *more).json["patches"]
             for more in ((), ("--patch", "64"), ("--stride", "32"))]
    assert plans == [8 * 5 + 3 * 3, 4 * 3 + 1, 6 * 4 + 2 * 2]


def test_fail_fast_in_a_config_file_is_the_flag(call: Call, with_bad: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("fail-fast = true\npatch = 64\n")
    args = ("predict", with_bad, "-m", "tests.cli.models:scores", "--config", file, "-q", "-o")
    assert call(*args, tmp_path / "stopped").err.startswith("error: ")
    file.write_text("fail-fast = false\npatch = 64\n")
    assert call(*args, tmp_path / "recorded").err.startswith("warning: 1 image failed")


def test_a_config_file_may_name_the_images(
    call: Call, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(slides)
    file = tmp_path / "run.toml"
    file.write_text('source = "b.tif"\nmodel = "tests.cli.models:scores"\npatch = 64\n')
    assert call("predict", "--config", file, "--dry-run", "--json").json["images"] == 1
    assert call("predict", "b.tif", "a/s.tif", "--config", file, "--dry-run", "--json").json["images"] == 2


def test_an_unknown_name_in_a_config_file_is_a_usage_error(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("pacth = 512\n")
    ended = call("predict", "x", "--config", file)
    assert ended.code == 2 and "unknown option 'pacth'" in ended.err and "[usage]" in ended.err


def test_a_config_that_cannot_be_saved_is_a_usage_error(call: Call, slides: Path, tmp_path: Path) -> None:
    ended = call("predict", slides, *SCORES, "--dry-run", "--save-config", tmp_path / "no" / "run.toml")
    assert ended.code == 2 and "cannot be written" in ended.err


def test_one_line_an_image_goes_to_standard_error(call: Call, with_bad: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = call("predict", with_bad, *SCORES, "-o", run)
    assert (ended.code, ended.out) == (1, "")
    lines = ended.err.splitlines()
    assert "good.tif  done  2 patches" in lines
    assert any(line.startswith("cut.tif  failed  [unreadable-image] ") for line in lines)
    assert lines[-1] == f"warning: 1 image failed, 1 done; see: patchloom failures {run}"


def test_a_failed_image_is_tried_again_by_resume(call: Call, tmp_path: Path, slides: Path) -> None:
    source, run = tmp_path / "in", tmp_path / "run"
    write_image(source / "good.tif", [[51, 102]])
    (source / "late.tif").write_bytes(b"II*\0" + bytes(40))
    assert call("predict", source, *SCORES, "-o", run).code == 1
    assert call("resume", run).code == 1
    (source / "late.tif").write_bytes((slides / "b.tif").read_bytes())
    ended = call("resume", run)
    assert ended.code == 0
    assert ended.err.splitlines()[:2] == ["resumed: 1 image reused, 1 image left", "late.tif  done  1 patch"]
    assert ended.err.splitlines()[-1].startswith("done: 2 images, 1 patch predicted in ")
    assert call("failures", run, "--json").json == []


def test_predict_on_a_finished_run_resumes_it_and_says_so(call: Call, slides: Path, tmp_path: Path) -> None:
    args = ("predict", slides, *SCORES, "-o", tmp_path / "run")
    assert call(*args).code == 0
    ended = call(*args)
    assert ended.code == 0
    assert ended.err.splitlines()[0] == "resumed: 2 images reused, 0 images left"


def test_overwrite_discards_the_run(call: Call, slides: Path, tmp_path: Path) -> None:
    args = ("predict", slides, "-m", "tests.cli.models:scores", "-o", tmp_path / "run", "-q")
    assert call(*args, "--patch", 64).code == 0
    assert call(*args, "--patch", 32).code == 2
    assert call(*args, "--patch", 32, "--overwrite").code == 0
    assert call("status", tmp_path / "run", "--json").json["images"][1]["patches"] == 4


def test_quiet_is_silent_where_nothing_is_wrong(call: Call, slides: Path, with_bad: Path, tmp_path: Path) -> None:
    good = call("predict", slides, *SCORES, "-o", tmp_path / "good", "--quiet")
    assert (good.code, good.out, good.err) == (0, "", "")
    bad = call("predict", with_bad, *SCORES, "-o", tmp_path / "bad", "--quiet")
    assert bad.code == 1 and bad.err.startswith("warning: 1 image failed") and bad.err.count("\n") == 1


def test_predictions_that_are_not_finite_are_reported(call: Call, tmp_path: Path) -> None:
    write_image(tmp_path / "in.tif", [[0, 10, 0]])
    ended = call("predict", tmp_path / "in.tif", "-m", "tests.cli.models:lookup", *PATCH, "-o", tmp_path / "run", "-q")
    assert ended.code == 0
    assert ended.err == "warning: 2 patches of in.tif have non-finite predictions\n"


def test_fail_fast_stops_at_the_first_bad_image(call: Call, with_bad: Path, tmp_path: Path) -> None:
    ended = call("predict", with_bad, *SCORES, "-o", tmp_path / "run", "-q", "--fail-fast")
    assert ended.code == 1
    assert "cut.tif" in ended.err.splitlines()[0] and ended.err.endswith("[unreadable-image]\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_where_it_stands_and_resumes(number: signal.Signals, tmp_path: Path, call: Call) -> None:
    write_image(tmp_path / "in" / "a.tif", [[20] * 32] * 64, size=32)
    args = ("predict", "in", "-m", "tests.cli.models:slow", "-o", "run", "--patch", "32", "--batch", "1")
    process = start(*args, cwd=tmp_path)
    while not (tmp_path / "run" / "run.json").exists():
        time.sleep(0.05)
    time.sleep(1)
    process.send_signal(number)
    out, rest = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    stopping, stopped, resume = rest.splitlines()
    assert stopping.startswith("stopping")
    assert re.fullmatch(r"stopped cleanly: 0 images complete(, a.tif at \d+ %)?", stopped)
    assert resume == "resume with: patchloom resume run"
    status = call("status", tmp_path / "run", "--json").json
    assert (status["done"], status["left"]) == (0, 1)
    resumed = call("resume", tmp_path / "run")
    assert resumed.code == 0 and resumed.err.startswith("resumed: 0 images ")
    assert call("verify", tmp_path / "run").code == 0
    assert len(call("query", tmp_path / "run", "--nl").out.splitlines()) == 32 * 64


def test_an_interruption_outside_of_a_run_is_130_too(
    call: Call, monkeypatch: pytest.MonkeyPatch, vectors: Path
) -> None:
    from patchloom.run import Run

    def stop(run: Run) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "verify", stop)
    ended = call("verify", vectors)
    assert (ended.code, ended.out, ended.err) == (130, "", "interrupted\n")


def test_a_reader_that_leaves_is_no_error(vectors: Path) -> None:
    process = start("query", vectors, "--nl", cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


def test_a_log_that_nobody_reads_stops_no_run(slides: Path, tmp_path: Path, call: Call) -> None:
    process = start("predict", slides, *SCORES, "-o", tmp_path / "run", cwd=ROOT)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert call("status", tmp_path / "run", "--json").json["done"] == 2


def test_a_terminal_gets_bars(slides: Path, tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100",
                                "SECONDS_A_PATCH": "0.02"}
    args = ("predict", slides, "-m", "tests.cli.models:slow", *PATCH, "--batch", 1, "-o", tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-m", "patchloom", *map(str, args)], stdin=terminal, stderr=terminal,
                               stdout=subprocess.PIPE, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
    os.close(master)
    assert process.communicate() == (b"", None) and process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(r"  total +━+ +100%  2/2 images", text)
    assert "done: 2 images, 7 patches predicted" in text


def test_the_golden_transcript(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_image(tmp_path / "slides" / "S-017.tif", [[204, 51, 0], [102, 153, 255]])
    write_image(tmp_path / "slides" / "S-101.tif", [[51]])
    (tmp_path / "slides" / "S-200.tif").write_bytes((tmp_path / "slides" / "S-101.tif").read_bytes()[:300])
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["pixels"], ["score"], axes=[2, 3], keepdims=0)], "mean",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", 3, "y", "x"])],
        [helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, ["n", 3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "net.onnx")

    def ended(*args: object) -> tuple[int | None, str, str]:
        process = start(*args, cwd=tmp_path)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    code, out, err = ended("predict", "slides", "-m", "net.onnx", "-o", "run", "--patch", 64, "--scale", 255,
                           "--classes", "tumour,stroma,fat")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert sorted(lines[:-1])[:2] == ["S-017.tif  done  6 patches", "S-101.tif  done  1 patch"]
    assert lines[-1] == "warning: 1 image failed, 2 done; see: patchloom failures run"
    code, out, err = ended("status", "run", "--json")
    assert code == 0
    assert [json.loads(out)[name] for name in ("done", "failed", "left")] == [2, 1, 0]
    assert ended("patch", "run", "S-017.tif", 64, 128, "--json") == (0, (
        '{"image":"S-017.tif","y":64,"x":128,"height":64,"width":64,"row":1,"col":2,'
        '"prediction":{"tumour":1.0,"stroma":1.0,"fat":1.0}}\n'), "")
    assert ended("query", "run", "--where", "tumour > 0.5", "--sort", "-tumour", "--limit", 2) == (0, (
        "image      y   x    tumour  stroma  fat\n"
        "S-017.tif  64  128  1.000   1.000   1.000\n"
        "S-017.tif  0   0    0.800   0.800   0.800\n"), "")
    assert ended("verify", "run") == (0, "nothing is damaged or missing\n", "")


def test_sentences_count_and_name() -> None:
    started = RunStarted(212, 66, 66, 8064, ("S-017.svs",), resumed=True)
    assert resumed_line(started) == "resumed: 66 images and 8,064 patches of S-017.svs reused, 146 images left"
    finished = RunFinished(66, 0, 146, 10.0, 500, stopped=True, partial=(("S-017.svs", 0.88),))
    assert stopped_lines(finished, "my run") == (
        "stopped cleanly: 66 images complete, S-017.svs at 88 %\nresume with: patchloom resume 'my run'")
    many = RunStarted(9, 0, 0, 1, ("a", "b", "c", "d", "e"), resumed=True)
    assert resumed_line(many) == "resumed: 0 images and 1 patch of a, b, c and 2 more reused, 9 images left"
    several = RunFinished(1, 0, 8, 1.0, 1, stopped=True, partial=tuple((name, 0.5) for name in "abcde"))
    assert stopped_lines(several, "r").splitlines()[0] == (
        "stopped cleanly: 1 image complete, a at 50 %, b at 50 %, c at 50 %, 2 more begun")
    assert [duration(s) for s in (0.4, 59, 60, 840, 3700)] == ["0s", "59s", "1m", "14m", "1h 02m"]
    assert shortened("folder/of/a/very/long/name.tif", 12) == "…ng/name.tif"
