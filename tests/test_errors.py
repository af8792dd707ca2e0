"""The tree of errors is the one that its documentation draws, and kinds are forever."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re

import pytest

from patchloom import errors
from patchloom.errors import MissingExtraError, PatchloomError

KINDS = [
    "error",
    "usage",
    "query",
    "missing-extra",
    "memory-budget",
    "source",
    "source-not-found",
    "image",
    "unknown-format",
    "unreadable-image",
    "image-too-large",
    "image-mismatch",
    "model",
    "model-not-found",
    "model-unreadable",
    "model-input",
    "model-output",
    "pickle-refused",
    "run",
    "run-not-found",
    "run-locked",
    "run-damaged",
    "output",
    "config-mismatch",
    "not-predicted",
    "interrupted",
    "prediction",
    "incomplete-image",
    "store",
    "store-unreachable",
    "worker-died",
]
"""Scripts match on these: append to the list, never change or remove a line."""

CLASSES: dict[str, type[PatchloomError]] = {
    name: value for name, value in vars(errors).items() if inspect.isclass(value)
}
DRAWN = re.compile(
    r"^(?P<indent>[│├└─ ]*)(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?: +(?P<kind>[a-z-]+))?(?:  +.*)?$"
)


def drawn() -> list[tuple[str, str | None, str | None, str]]:
    """Name, name of the parent, of the builtin, and kind of each class in the docstring, from the top."""
    assert errors.__doc__
    found: list[tuple[str, str | None, str | None, str]] = []
    above: dict[int, str] = {}
    for line in inspect.cleandoc(errors.__doc__).split("::\n")[1].splitlines():
        match = DRAWN.match(line.removeprefix("    "))
        if not match or not match["name"].endswith(("Error", "Interrupted")):
            continue
        depth = len(match["indent"]) // 4
        above[depth] = match["name"]
        found.append((match["name"], above.get(depth - 1), match["builtin"], match["kind"] or "error"))
    return found


def test_the_tree_names_every_class_once_and_no_other() -> None:
    names = [name for name, *_ in drawn()]
    assert sorted(names) == sorted(CLASSES) == sorted(errors.__all__)


@pytest.mark.parametrize(("name", "parent", "builtin", "kind"), drawn())
def test_each_class_stands_where_the_tree_draws_it(
    name: str, parent: str | None, builtin: str | None, kind: str
) -> None:
    bases = [base.__name__ for base in CLASSES[name].__bases__]
    assert bases == [base for base in (parent or "Exception", builtin) if base]
    assert CLASSES[name].kind == kind
    assert builtin is None or hasattr(builtins, builtin)


def test_kinds_are_unique_and_those_that_were_ever_published() -> None:
    kinds = [CLASSES[name].kind for name, *_ in drawn()]
    assert len(set(kinds)) == len(kinds)
    assert set(KINDS) <= set(kinds), "a kind was removed or renamed"
    assert set(kinds) <= set(KINDS), "append the new kind to KINDS"


def test_kinds_are_words_with_hyphens() -> None:
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", kind) for kind in KINDS)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_shows_its_message_and_its_hint(name: str) -> None:
    error = CLASSES[name]("S-017.svs is truncated", "copy it again")
    assert isinstance(error, PatchloomError)
    assert (error.message, error.hint) == ("S-017.svs is truncated", "copy it again")
    assert str(error) == "S-017.svs is truncated (copy it again)"
    assert str(CLASSES[name]("S-017.svs is truncated")) == "S-017.svs is truncated"


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_survives_the_way_to_another_process(name: str) -> None:
    error = pickle.loads(pickle.dumps(CLASSES[name]("what", "what to do")))
    assert type(error) is CLASSES[name]
    assert (error.message, error.hint, error.kind) == ("what", "what to do", CLASSES[name].kind)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_class_says_what_it_is_for(name: str) -> None:
    assert CLASSES[name].__doc__


def test_a_missing_package_is_named_with_the_extra_that_brings_it() -> None:
    error = MissingExtraError.of("torch", "torch", "model.pt")
    assert error.message == "model.pt needs torch, which is not installed"
    assert error.hint == "pip install 'patchloom[torch]'"
