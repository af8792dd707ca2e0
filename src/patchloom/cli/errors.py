"""A person's mistake is one ``error:`` line, one ``hint:`` line and a stable kind; never a traceback."""

from __future__ import annotations

import contextlib
import difflib
import shutil

import click

from patchloom.errors import ImageError, NotPredictedError, PatchloomError, RunDamagedError

__all__ = ["exit_code", "report", "report_usage", "say"]

WIDTH = 90
"""Column at which the kind ends, on terminals that are wide enough."""
FOUND_BAD = (ImageError, NotPredictedError, RunDamagedError)
"""What says that images failed or that a check found something, rather than that the call was wrong."""


def exit_code(error: PatchloomError) -> int:
    """1 for bad images and damage, 2 for everything that the caller has to correct."""
    return 1 if isinstance(error, FOUND_BAD) else 2


def say(line: str) -> None:
    """Write a line to standard error; where nobody listens any more, work goes on all the same."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(line, err=True)


def report(message: str, hint: str, kind: str) -> None:
    """Write the two lines to standard error."""
    columns = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    tag, second = f"[{kind}]", f"hint: {_one_line(hint)}"
    say(f"error: {_one_line(message)}")
    say(f"{second:<{max(len(second) + 2, columns - len(tag))}}{tag}")


def report_usage(error: click.ClickException) -> None:
    """Report what click found wrong with the arguments."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "patchloom"
    hint = f"see `{path} --help`"
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name}"
        near = difflib.get_close_matches(error.option_name, error.possibilities or (), 1)
        hint = f"did you mean {near[0]}? {hint}" if near else hint
    report(message[:1].lower() + message[1:].rstrip("."), hint, "usage")


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
