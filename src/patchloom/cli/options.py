"""Options of commands, in groups; those of a run come from `patchloom.config`, where each is described once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

__all__ = ["Command", "GroupedOption", "grouped", "listing_options", "quiet_option", "run_options", "store_option",
           "write_example"]

F = TypeVar("F", bound=Callable[..., Any])
GROUPS = ("Input", "Patches", "Model", "Output", "Execution", "General")
ON_ERROR = "on_error"
"""Has no flag of its own name: `--fail-fast` stands for ``on_error="raise"``."""


class GroupedOption(click.Option):
    """Option that help shows under a heading."""

    def __init__(self, *args: Any, group: str = "General", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class Command(click.Command):
    """Command whose help groups its options, and that takes ``--debug`` as the whole program does."""

    def __init__(self, *args: Any, example: str, **kwargs: Any) -> None:
        self.example = example
        kwargs["context_settings"] = {"help_option_names": ["-h", "--help"], **kwargs.get("context_settings", {})}
        super().__init__(*args, **kwargs)
        self.params.append(debug_option())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a table of options for each group."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in GROUPS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                rows[getattr(param, "group", "General")].append(record)
        filled = [group for group in GROUPS if rows[group]]
        for group in filled:
            with formatter.section(group if len(filled) > 1 else "Options"):
                formatter.write_dl(rows[group])


    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example."""
        write_example(formatter, self.example)


def write_example(formatter: click.HelpFormatter, example: str) -> None:
    """Write commands under a heading, one a line."""
    with formatter.section("Example"):
        for line in example.splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def debug_option() -> GroupedOption:
    """``--debug``, before or after the name of the command; the program looks for it before anything is parsed."""
    return GroupedOption(["--debug"], is_flag=True, expose_value=False,
                         help="Show tracebacks and the warnings of libraries.")


def grouped(*flags: str, group: str, **about: Any) -> Callable[[F], F]:
    """`click.option` under a heading."""
    return click.option(*flags, cls=GroupedOption, group=group, **about)


def quiet_option(function: F) -> F:
    """``--quiet``."""
    help_ = "No progress; errors and warnings remain."
    return grouped("-q", "--quiet", is_flag=True, group="General", help=help_)(function)


def store_option(function: F) -> F:
    """``--store`` of commands that read a run."""
    help_ = ("Store to read from: the one that the run lives in, with its password (PATCHLOOM_STORE in the environment "
             "does, too), or one that it was copied to.")
    return click.option("--store", metavar="URL", help=help_)(function)


def listing_options(function: F) -> F:
    """``--json`` and ``--nl`` of commands that list something."""
    function = click.option("--nl", "lines", is_flag=True, help="Print one JSON object a line.")(function)
    return click.option("--json", "document", is_flag=True, help="Print one JSON document.")(function)


def run_options(names: Iterable[str] = (), *, defaults: bool = True) -> Callable[[F], F]:
    """Options out of `patchloom.config.OPTIONS`, all or those that are named; not given, they are None."""
    from patchloom.config import OPTIONS

    chosen = tuple(names) or tuple(OPTIONS)

    def decorate(function: F) -> F:
        for name in reversed(chosen):
            function = _option(name, defaults)(function)
        return function

    return decorate


def _option(name: str, defaults: bool) -> Callable[[F], F]:
    from patchloom.config import OPTIONS, Config, flag

    option = OPTIONS[name]
    if name == ON_ERROR:
        return grouped("--fail-fast", ON_ERROR, flag_value="raise", default=None, group=option.group,
                       help="Stop at the first image that fails, instead of recording it and going on.")
    text = option.help
    default = next(item.default for item in dataclasses.fields(Config) if item.name == name)
    if defaults and "Default" not in text and default not in (None, (), False):
        text += f" [default: {default}]"
    if option.is_flag:
        return grouped(f"--{flag(name)}", name, flag_value=True, type=bool, default=None, group=option.group, help=text)
    kind = click.Choice(option.choices) if option.choices else None
    return grouped(f"--{flag(name)}", name, type=kind, metavar=option.metavar, group=option.group, help=text)
