"""The command line: one file per command; a command parses what was typed and delegates."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from propscope.cli.completion import VARIABLE, command_typed
from propscope.cli.loudness import loud_as_asked
from propscope.cli.signature import spread

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, the module of this package whose function of the same name runs it, and what it does."""

    name: str
    module: str
    help: str

    @property
    def run(self) -> Callable[..., Any]:
        """The function that runs the command; importing its module imports nothing heavy."""
        return spread(loud_as_asked(getattr(import_module(f"{__name__}.{self.module}"), self.module), self.name))


COMMANDS = (
    Command("profile", "profile", "Compare initializers on deep MLPs."),
    Command("train", "train", "Train deep MLPs from several initializers."),
    Command("inspect", "inspect", "Show the signal in your own model, module by module."),
    Command("check", "check", "Judge a model or a result file by the exit code, for CI."),
    Command("compare", "compare", "Say where two models, files or trainings part first."),
    Command("show", "show", "Print the tables of a result file."),
    Command("diagnose", "diagnose", "Explain what is wrong in a result file and what to change."),
    Command("plot", "plot", "Draw the plots of a result file."),
    Command("report", "report", "Write a result file as one HTML page that opens anywhere."),
    Command("theory", "theory", "Print what mean-field theory predicts for an activation."),
    Command("phase", "phase", "Draw the order-to-chaos diagram of an activation."),
    Command("width-check", "width_check", "Check how sizes in a model grow with its width, as for muP."),
    Command("list", "list_", "List activations, initializers, inputs, data and optimizers."),
    Command("merge", "merge", "Join several result files into one."),
    Command("watch", "watch", "Show a running training live."),
    Command("control", "control", "Change which steps of a running training are sampled."),
    Command("compact", "compact", "Write the file of a run that was killed."),
    Command("example", "example", "Run a classic experiment on initialization."),
)


class _Grouped(TyperCommand):
    """A command whose help lists its options under their headings; typer does so only in its boxes of rich."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if (record := parameter.get_help_record(ctx)) is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or heading, []).append(record)
        # Those without a heading, such as --help, come last.
        for heading, records in sorted(groups.items(), key=lambda group: group[0] == "Options"):
            with formatter.section(heading):
                formatter.write_dl(records)


def build(only: str = "") -> typer.Typer:
    """Return the application with every command, or with the one named `only`."""
    app = typer.Typer(
        name="propscope",
        help="Measure how a signal travels through a deep network, forward and backward, layer by layer.",
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        if only not in ("", command.name):
            continue
        app.command(command.name, cls=_Grouped, short_help=command.help)(command.run)

    @app.callback(invoke_without_command=True)
    def without_command(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
    ) -> None:
        if version:
            from propscope import __version__

            print(f"propscope {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


@cache
def _application(only: str) -> Any:
    # Reading the options of a command takes milliseconds: nobody waits for those of commands that do not run.
    return typer.main.get_command(build(only))


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 fine, 1 a check failed, 2 wrong use or bad input.

    A command that was stopped by Ctrl-C returns 130. SIGTERM ends it with what it has, and then the program that called
    this, by `SystemExit` with the code 143, unless that handles SIGTERM itself.
    """
    from propscope.cli.running import guarded

    arguments = sys.argv[1:] if arguments is None else arguments
    typed = command_typed() if VARIABLE in os.environ else arguments[0] if arguments else ""
    return guarded(_application(typed if typed in {command.name for command in COMMANDS} else ""), arguments)
