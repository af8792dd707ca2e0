"""Options: one name, one default, one meaning; texts and Python values alike."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.config import CHANGES_PREDICTIONS, OPTIONS, Config, Pad, read_toml, write_toml
from patchloom.errors import UsageError
from patchloom.geometry.blend import Blend
from patchloom.geometry.grid import Edge

UX = Path(__file__).parents[2] / "shared" / "UX.md"

DEFAULTS = {
    "patch": None, "overlap": None, "stride": None, "edge": "shift", "pad": "reflect", "fill": 0.0, "blend": "crop",
    "axes": None, "channels": None, "level": 0, "scale": None, "mean": None, "std": None, "preprocess": None,
    "reduce": (), "classes": None, "arch": None, "model_id": None, "allow_pickle": False, "nodata": None,
    "batch": "auto", "device": "auto", "threads": "auto", "memory": None, "executor": "local", "on_error": "record",
    "skip": None, "shard": None,
}  # fmt: skip


def test_defaults_are_those_that_were_published() -> None:
    found = {field.name: field.default for field in dataclasses.fields(Config)}
    assert {name: found.get(name) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("patch", "512", (512,)),
        ("patch", "512,256", (512, 256)),
        ("patch", 512, (512,)),
        ("patch", [16, 512, 256], (16, 512, 256)),
        ("patch", (512, 512), (512, 512)),
        ("overlap", "0", (0,)),
        ("overlap", "0, 64", (0, 64)),
        ("stride", "448", (448,)),
        ("edge", "pad", "pad"),
        ("pad", "edge", "edge"),
        ("fill", "255", 255.0),
        ("blend", "gaussian", "gaussian"),
        ("skip", "background:0.1", "background:0.1"),
        ("skip", "mask:/masks/../other", "mask:/other"),
        ("skip", "package.module:function", "package.module:function"),
        ("axes", "yxc", "YXC"),
        ("channels", "2,1,0", (2, 1, 0)),
        ("channels", "red,nir", ("red", "nir")),
        ("channels", [3, "nir"], (3, "nir")),
        ("channels", 0, (0,)),
        ("level", "2", 2),
        ("scale", "255", 255.0),
        ("mean", "0.5,0.4,0.3", (0.5, 0.4, 0.3)),
        ("std", 0.5, (0.5,)),
        ("reduce", "argmax", ("argmax",)),
        ("reduce", "sigmoid,threshold:0.5", ("sigmoid", "threshold:0.5")),
        ("reduce", ["mask=argmax", "float16"], ("mask=argmax", "float16")),
        ("classes", "stroma, tumour", ("stroma", "tumour")),
        ("nodata", "-1", -1.0),
        ("batch", "auto", "auto"),
        ("batch", "8", 8),
        ("threads", 4, 4),
        ("memory", "4GB", 4 * 10**9),
        ("memory", "500 MiB", 500 * 2**20),
        ("memory", "1.5g", 1_500_000_000),
        ("memory", "2KiB", 2048),
        ("memory", 123_456, 123_456),
        ("allow_pickle", True, True),
        ("allow_pickle", False, False),
    ],
)
def test_texts_and_python_values_are_read_alike(option: str, text: object, value: object) -> None:
    assert getattr(Config(**{option: text}), option) == value


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patch": "0"}, "patch"),
        ({"patch": "big"}, "patch"),
        ({"patch": "512,"}, "patch"),
        ({"patch": ()}, "patch"),
        ({"patch": 0.5}, "patch"),
        ({"patch": True}, "patch"),
        ({"overlap": -1}, "overlap"),
        ({"stride": 0}, "stride"),
        ({"edge": "wrap"}, "edge"),
        ({"edge": ["shift"]}, "edge"),
        ({"pad": "mirror"}, "pad"),
        ({"fill": "white"}, "fill"),
        ({"blend": "mean"}, "blend"),
        ({"axes": "YXQ"}, "axes"),
        ({"channels": ()}, "channels"),
        ({"channels": ""}, "channels"),
        ({"level": "fine"}, "level"),
        ({"level": -1}, "level"),
        ({"level": 1.5}, "level"),
        ({"scale": "0"}, "scale"),
        ({"scale": "bright"}, "scale"),
        ({"scale": "nan"}, "scale"),
        ({"mean": "a,b"}, "mean"),
        ({"std": (0.5, 0)}, "std"),
        ({"std": "inf"}, "std"),
        ({"classes": "a,a"}, "classes"),
        ({"classes": "a,,b"}, "classes"),
        ({"batch": 0}, "batch"),
        ({"batch": "many"}, "batch"),
        ({"threads": -1}, "threads"),
        ({"memory": "lots"}, "memory"),
        ({"memory": "-4GB"}, "memory"),
        ({"memory": "inf"}, "memory"),
        ({"memory": 0}, "memory"),
        ({"executor": "spark"}, "executor"),
        ({"shard": "0/16"}, "shard"),
        ({"shard": "17/16"}, "shard"),
        ({"shard": "3"}, "shard"),
        ({"shard": "a/b"}, "shard"),
        ({"on_error": "ignore"}, "on_error"),
        ({"allow_pickle": "no"}, "allow_pickle"),
        ({"stride": 4, "overlap": 4}, "stride"),
        ({"patch": 64, "overlap": 64}, "overlap"),
        ({"patch": (64, 32), "overlap": 48}, "overlap"),
        ({"patch": (64, 64), "overlap": (1, 1, 1)}, "1,1,1"),
    ],
)
def test_values_that_make_no_sense_are_usage_errors_that_name_the_option(
    options: dict[str, object], named: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Config(**options)  # type: ignore[arg-type]
    assert named in caught.value.message
    assert caught.value.hint
    assert "invalid literal" not in caught.value.message, "words of the interpreter, not ours"
    assert "could not convert" not in caught.value.message


def test_the_error_shows_what_is_taken_and_what_was_given() -> None:
    with pytest.raises(UsageError, match=r"edge: one of shift, pad, drop, not 'wrap'"):
        Config(edge="wrap")  # type: ignore[arg-type]


options = st.fixed_dictionaries(
    {},
    optional={
        "patch": st.lists(st.integers(32, 1024), min_size=1, max_size=1),
        "overlap": st.integers(0, 31),
        "edge": st.sampled_from(get_args(Edge)),
        "pad": st.sampled_from(get_args(Pad)),
        "blend": st.sampled_from(get_args(Blend)),
        "fill": st.floats(-1e6, 1e6),
        "axes": st.sampled_from(["YX", "yxc", "STCZYX"]),
        "channels": st.lists(st.one_of(st.integers(0, 20), st.sampled_from(["red", "nir"])), min_size=1, max_size=4),
        "level": st.integers(0, 9),
        "scale": st.floats(1e-3, 1e5),
        "mean": st.lists(st.floats(-100, 100), min_size=1, max_size=4),
        "std": st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
        "reduce": st.lists(st.sampled_from(["softmax", "mask=argmax", "threshold:0.5"]), max_size=3),
        "classes": st.lists(st.sampled_from(["a", "b", "stroma"]), min_size=1, max_size=3, unique=True),
        "nodata": st.floats(-1e6, 1e6),
        "batch": st.one_of(st.just("auto"), st.integers(1, 64)),
        "memory": st.integers(1, 2**40),
        "allow_pickle": st.booleans(),
        "model_id": st.text(min_size=1, max_size=5),
    },
)


@given(options)
def test_changed_options_make_the_same_config_again(values: dict[str, Any]) -> None:
    config = Config(**values)
    assert Config(**config.changed()) == config
    assert all(getattr(config, name) != DEFAULTS[name] for name in config.changed())


@given(options)
def test_a_config_is_read_from_its_own_representation(values: dict[str, Any]) -> None:
    config = Config(**values)
    assert eval(repr(config), {"Config": Config}) == config


@given(options)
def test_a_config_file_gives_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.mktemp("config") / "run.toml"
    config = Config(**values)
    write_toml(path, config.changed())
    assert Config(**read_toml(path)) == config


def test_replacing_checks_again() -> None:
    config = Config(patch=64)
    assert config.replace(overlap="16") == Config(patch=64, overlap=16)
    with pytest.raises(UsageError, match="exclude"):
        config.replace(overlap=16, stride=48)


def test_configs_are_values() -> None:
    assert len({Config(patch=64), Config(patch="64"), Config(patch=65)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().patch = (1,)  # type: ignore[misc]


def test_a_config_file_may_use_the_names_of_the_flags(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('model-id = "mine"\nsource = "slides/"\npatch = [256, 512]\n')
    assert read_toml(tmp_path / "run.toml") == {"model_id": "mine", "source": "slides/", "patch": [256, 512]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"patc = 3", "unknown option 'patc'"),
        (b"patch = ", "run.toml"),
        (b"\xff\xfe", "run.toml"),
        (None, "run.toml"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_named(tmp_path: Path, text: bytes | None, message: str) -> None:
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_toml(path)
    assert str(path) in caught.value.message


def test_each_option_has_help_that_ends_like_a_sentence() -> None:
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(Config)}
    assert all(option.help.endswith(".") for option in OPTIONS.values())


def test_what_changes_predictions_are_options() -> None:
    assert set(CHANGES_PREDICTIONS) <= set(OPTIONS)
    assert not {"batch", "threads", "memory", "device", "executor", "on_error", "shard"} & set(CHANGES_PREDICTIONS)


@pytest.mark.skipif(not UX.exists(), reason="the specification is not here")
def test_defaults_are_those_of_the_specification() -> None:
    """Each row of the table: names of one or several options, flags, default, meaning."""
    section = UX.read_text(encoding="utf-8").split("## Options")[1]
    said: dict[str, str] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("| `") or len(cells) != 4:
            continue
        names = re.findall(r"`(\w+)`", cells[0])
        defaults = [word.strip(" `") for word in cells[2].split(",")]
        said |= dict(zip(names, defaults, strict=False))
    compared = {
        name: word for name, word in said.items()
        if name in OPTIONS and word in {"shift", "reflect", "0", "crop", "auto", "local", "record"}
    }  # fmt: skip
    assert len(compared) >= 8
    for name, word in compared.items():
        assert DEFAULTS[name] == (0 if word == "0" else word), name
