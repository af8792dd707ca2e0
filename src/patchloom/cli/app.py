"""The program: finds the command, runs it, and turns every end of it into an exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import click

from patchloom.cli.errors import exit_code, report, report_usage
from patchloom.cli.options import debug_option, write_example
from patchloom.errors import Interrupted, PatchloomError, UsageError

__all__ = ["COMMANDS", "main", "patchloom"]

INTERRUPTED = 130
COMMANDS = {
    "predict": "Predict every patch of every image.",
    "resume": "Go on with a run, and try again what failed.",
    "status": "What is done, failed and left.",
    "failures": "Images that failed, and why.",
    "patch": "Look up the prediction of one patch.",
    "query": "Patches that meet a condition, as a table.",
    "copy": "Copy predictions to another store, such as a database.",
    "export": "Write predictions to a file of another format.",
    "verify": "Read everything back; name what is damaged or missing.",
    "demo": "See it work: images, a model, an interruption, a picture.",
}
"""Commands and what they do in a line; each is the object of its name in the module of its name."""

EXAMPLE = """patchloom predict slides/ -m tumour.onnx -o run --patch 512 --overlap 64
patchloom query run --where "tumour > 0.9" --sort -tumour --limit 3"""


class Stopped(Exception):  # noqa: N818 - as `Interrupted`
    """The user stopped a command; click would make something else of a KeyboardInterrupt."""


class Commands(click.Group):
    """Imports a command when it is called, so that help is quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order in which people need them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"patchloom.cli.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"did you mean `patchloom {near[0]}`?" if near else f"commands are {', '.join(COMMANDS)}"
            raise UsageError(f"no such command {args[0]!r}", hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        write_example(formatter, EXAMPLE)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; click itself has other plans for an interruption and for a reader that left."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise Stopped from stop
        except BrokenPipeError:
            return _reader_left()


def show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """``--version``."""
    if value:
        from patchloom import __version__

        click.echo(f"patchloom {__version__}")
        ctx.exit()


@click.group(
    cls=Commands, invoke_without_command=True, subcommand_metavar="COMMAND ...",
    context_settings={"help_option_names": ["-h", "--help"]}, params=[debug_option()],
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version,
              help="Show the version and exit.")
@click.pass_context
def patchloom(ctx: click.Context) -> int | None:
    """Run a trained model over every patch of every image, and look the predictions up afterwards."""
    if ctx.invoked_subcommand is not None:
        return None
    click.echo(ctx.get_help(), err=True)
    return 2


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args
        Words after ``patchloom``; without them those that the program was started with.

    Returns
    -------
    int
        0 all done; 1 some images failed or a check found damage; 2 usage, configuration or internal error;
        130 interrupted.
    """
    words = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in words[: words.index("--") if "--" in words else None]
    for stream in (sys.stdout, sys.stderr):
        # Names of files need not be text, and terminals need not know every letter.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _terminable(), _libraries(debug):
        return _ended(words, debug)


def _ended(words: list[str], debug: bool) -> int:
    try:
        code = patchloom.main(words, prog_name="patchloom", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except (Exception, KeyboardInterrupt) as error:
        return _failed(error, debug)


def _failed(error: BaseException, debug: bool) -> int:
    if isinstance(error, BrokenPipeError):
        return _reader_left()
    if debug and not isinstance(error, (click.ClickException, KeyboardInterrupt, Stopped)):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        report_usage(error)
        return 2
    if isinstance(error, PatchloomError) and not isinstance(error, Interrupted):
        report(error.message, error.hint or "see `patchloom --help`", error.kind)
        return exit_code(error)
    if isinstance(error, (KeyboardInterrupt, Stopped, click.Abort)):
        said = error.__cause__ if isinstance(error.__cause__, Interrupted) else None
        click.echo(f"{said.message}\n{said.hint}" if said else "interrupted", err=True)
        return INTERRUPTED
    report(f"internal error: {type(error).__name__}: {error}",
           "this is a bug: run it again with --debug, and report what it shows", "internal")
    return 2


def _reader_left() -> int:
    """Whoever read our output has seen enough; nothing is left that could be written when Python exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _libraries(debug: bool) -> Iterator[None]:
    """What libraries log and warn about is for those who debug."""
    silent = logging.NullHandler() if not debug else logging.StreamHandler()
    logging.getLogger().addHandler(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default" if debug else "ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
