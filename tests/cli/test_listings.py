"""What commands that look into a run print: a table, one JSON document, or one JSON object a line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from patchloom.cli.listing import cell, json_text, print_table
from tests.cli.conftest import Call, make_run, write_image


def nl(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_status_is_counts_and_a_table(call: Call, vectors: Path) -> None:
    assert call("status", vectors).out == (
        "2 done · 0 failed · 0 left\n\n"
        "image    state  patches  patches_done\n"
        "a/s.tif  done   6        6\n"
        "b.tif    done   1        1\n"
    )


def test_status_json_is_one_document(call: Call, failed: Path) -> None:
    images = [
        {"image": "cut.tif", "state": "failed", "patches": 0, "patches_done": 0, "skipped": 0},
        {"image": "good.tif", "state": "done", "patches": 2, "patches_done": 2, "skipped": 0},
    ]
    assert call("status", failed, "--json").json == {"done": 1, "failed": 1, "left": 0, "images": images}
    assert nl(call("status", failed, "--nl").out) == images


def test_failures_lists_image_kind_and_message(call: Call, failed: Path) -> None:
    ended = call("failures", failed, "--json")
    assert ended.code == 0
    (failure,) = ended.json
    assert list(failure) == ["image", "kind", "message"]
    assert (failure["image"], failure["kind"]) == ("cut.tif", "unreadable-image")
    assert "cut.tif" in failure["message"]
    assert nl(call("failures", failed, "--nl").out) == [failure]
    header, line = call("failures", failed).out.splitlines()
    assert header.split() == ["image", "kind", "message"]
    assert line.split()[:2] == ["cut.tif", "unreadable-image"]


def test_no_failures_are_an_empty_listing(call: Call, vectors: Path) -> None:
    assert call("failures", vectors).out == ""
    assert call("failures", vectors, "--json").out == "[]\n"
    assert call("failures", vectors, "--nl").out == ""


def test_patch_prints_the_documented_json(call: Call, vectors: Path) -> None:
    assert call("patch", vectors, "a/s.tif", 64, 128, "--json").out == (
        '{"image":"a/s.tif","y":64,"x":128,"height":64,"width":64,"row":1,"col":2,'
        '"prediction":{"tumour":1.0,"stroma":0.0}}\n'
    )


def test_patch_prints_names_and_values(call: Call, vectors: Path) -> None:
    lines = call("patch", vectors, "b.tif", 0, 0).out.splitlines()
    assert [line.split() for line in lines][:3] == [["image", "b.tif"], ["y", "0"], ["x", "0"]]
    assert lines[-2:] == ["tumour  0.200", "stroma  0.800"]


def test_patch_summarises_a_map_in_json(call: Call, dense: Path) -> None:
    found = call("patch", dense, "b.tif", 0, 0, "--json").json["prediction"]
    flat = {"min": 0.2, "max": 0.2, "mean": 0.2}
    assert found["shape"] == [2, 64, 64] and found["dtype"] == "float32"
    assert found["classes"]["tumour"] == pytest.approx(flat)


def test_patch_gives_the_share_of_each_class_of_a_class_map(
    call: Call, slides: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = make_run(tmp_path_factory, slides, "maps", "--classes", "tumour,stroma", "--reduce", "argmax")
    found = call("patch", run, "b.tif", 0, 0, "--json").json["prediction"]
    assert found == {"shape": [64, 64], "dtype": "uint8", "shares": {"tumour": 1.0}}


def test_patch_names_heads_where_there_are_several(call: Call, two_heads: Path) -> None:
    found = call("patch", two_heads, "b.tif", 0, 0, "--json").json["prediction"]
    assert list(found) == ["map", "score"]
    one = call("patch", two_heads, "b.tif", 0, 0, "--json", "--head", "score").json["prediction"]
    assert one == found["score"] == {"0": 0.2, "1": 0.8}
    assert "score.0" in call("patch", two_heads, "b.tif", 0, 0).out


def test_patch_saves_the_pixels(call: Call, two_heads: Path, tmp_path: Path) -> None:
    file = tmp_path / "map.npy"
    assert call("patch", two_heads, "b.tif", 0, 0, "--head", "map", "--npy", file).code == 0
    pixels = np.load(file)
    assert pixels.shape == (2, 64, 64) and np.allclose(pixels[0], 51 / 255)
    refused = call("patch", two_heads, "b.tif", 0, 0, "--npy", file)
    assert refused.code == 2 and "--head with one of map, score" in refused.err
    unwritable = call("patch", two_heads, "b.tif", 0, 0, "--head", "map", "--npy", tmp_path / "no" / "map.npy")
    assert unwritable.code == 2 and "[output]" in unwritable.err


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("b.tif", 1, 0), "no patch of 'b.tif' starts at 1 0", "the nearest patch starts at 0 0"),
        (("a/s.tif", 60, 500), "no patch of 'a/s.tif' starts at 60 500", "the nearest patch starts at 64 128"),
        (("a/s.tiff", 0, 0), "no predictions of 'a/s.tiff'", "did you mean a/s.tif?"),
        (("nothing", 0, 0), "no predictions of 'nothing'", "lists the images"),
        (("b.tif", 0), "start at y x", "b.tif Y X"),
    ],
)
def test_a_patch_that_is_not_there_is_no_usage_error(
    args: tuple[object, ...], message: str, hint: str, call: Call, vectors: Path
) -> None:
    ended = call("patch", vectors, *args, "--json")
    assert (ended.code, ended.out) == (1, "")
    first, second = ended.err.splitlines()
    assert message in first and hint in second and second.endswith("[not-predicted]")


def test_an_unknown_head_is_a_usage_error(call: Call, two_heads: Path) -> None:
    ended = call("patch", two_heads, "b.tif", 0, 0, "--head", "mask")
    assert ended.code == 2 and "heads are map, score" in ended.err


def test_query_prints_places_and_scores(call: Call, vectors: Path) -> None:
    ended = call("query", vectors, "--where", "tumour > 0.25", "--sort", "-tumour", "--limit", 3)
    assert ended.out == (
        "image    y   x    tumour  stroma\n"
        "a/s.tif  64  128  1.000   0.000\n"
        "a/s.tif  0   0    0.800   0.200\n"
        "a/s.tif  64  64   0.600   0.400\n"
    )


def test_query_json_has_all_columns_in_full(call: Call, vectors: Path) -> None:
    ended = call("query", vectors, "--image", "b.tif", "--json")
    assert ended.json == [{"image": "b.tif", "row": 0, "col": 0, "y": 0, "x": 0, "height": 64, "width": 64,
                           "tumour": 0.2, "stroma": 0.8}]
    assert nl(call("query", vectors, "--image", "b.tif", "--nl").out) == ended.json


def test_query_of_nothing_is_a_header_or_an_empty_list(call: Call, vectors: Path) -> None:
    assert call("query", vectors, "--where", "tumour > 2").out == "image  y  x  tumour  stroma\n"
    assert call("query", vectors, "--where", "tumour > 2", "--json").json == []


def test_query_that_cannot_be_understood_names_the_columns(call: Call, vectors: Path) -> None:
    ended = call("query", vectors, "--where", "tumor > 0.9")
    assert ended.code == 2
    assert "columns are image, row, col, y, x, height, width, tumour, stroma" in ended.err
    assert ended.err.endswith("[query]\n")


def test_query_of_maps_says_where_to_look(call: Call, dense: Path) -> None:
    ended = call("query", dense)
    assert ended.code == 2 and "its heads are maps" in ended.err


def test_numbers_that_json_does_not_have_are_null(call: Call, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = tmp_path_factory.mktemp("images") / "black.tif"
    write_image(source, [[0]])
    run = make_run(tmp_path_factory, source, "lookup")
    assert call("patch", run, "black.tif", 0, 0, "--json").json["prediction"] is None
    assert call("query", run, "--json").json[0]["prediction"] is None
    assert call("query", run).out.split()[-1] == "nan"


def test_verify_says_that_nothing_is_wrong(call: Call, vectors: Path) -> None:
    ended = call("verify", vectors)
    assert (ended.code, ended.out, ended.err) == (0, "nothing is damaged or missing\n", "")
    assert call("verify", vectors, "--json").json == []


@pytest.mark.parametrize("suffix", ["parquet", "zarr"])
def test_verify_names_a_file_with_one_flipped_byte(
    suffix: str, call: Call, vectors: Path, dense: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(vectors if suffix == "parquet" else dense, tmp_path / "run")
    files = [path for path in run.rglob("*") if path.is_file() and suffix in str(path.relative_to(run))]
    victim = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    ended = call("verify", run, "--json")
    assert ended.code == 1
    (damage,) = ended.json
    assert damage["path"] == victim.relative_to(run).as_posix() and "changed" in damage["problem"]
    assert call("verify", run).code == 1
    assert damage["path"] in call("verify", run).out


def test_export_writes_a_file(call: Call, vectors: Path, dense: Path, tmp_path: Path) -> None:
    ended = call("export", vectors, tmp_path / "all.csv")
    assert ended.code == 0 and "all.csv" in ended.err
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 8
    assert call("export", dense, tmp_path / "b.npy", "--image", "b.tif").code == 0
    assert np.load(tmp_path / "b.npy").shape == (2, 64, 64)


def test_export_of_an_unknown_format_names_those_that_are_known(call: Call, vectors: Path, tmp_path: Path) -> None:
    ended = call("export", vectors, tmp_path / "out.xyz")
    assert ended.code == 2 and ".parquet" in ended.err and "[usage]" in ended.err


def test_a_table_is_aligned_and_shows_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a", "score": 0.12345, "vector": [0.5] * 6}, {"name": "long", "score": 1e-5, "vector": []}]
    print_table(iter(rows), ["name", "score", "vector"])
    assert capsys.readouterr().out.splitlines() == [
        "name  score    vector",
        "a     0.123    [0.500, 0.500, 0.500, 0.500, … 6 in all]",
        "long  1.0e-05  []",
    ]


def test_cells_and_json_are_one_line() -> None:
    assert cell("two\nlines") == "two lines" and cell(None) == ""
    assert json_text({"a": float("inf"), "b": [float("nan"), "é\n"]}) == '{"a":null,"b":[null,"é\\n"]}'
