"""The command line: one file a command; a command parses what was typed and delegates."""

from __future__ import annotations

import sys

import typer


def build() -> typer.Typer:
    """Return the application with every command; importing a command imports nothing heavy."""
    from propscope.cli import check, diagnose, example, inspect, list_, merge, phase, plot, profile, show, theory, train

    app = typer.Typer(
        name="propscope",
        help="Measure how a signal travels through a deep network, forward and backward, layer by layer.",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command("profile")(profile.profile)
    app.command("train")(train.train)
    app.command("inspect")(inspect.inspect)
    app.command("check")(check.check)
    app.command("show")(show.show)
    app.command("diagnose")(diagnose.diagnose)
    app.command("plot")(plot.plot)
    app.command("theory")(theory.theory)
    app.command("phase")(phase.phase)
    app.command("list")(list_.list_)
    app.command("merge")(merge.merge)
    app.command("example")(example.example)

    @app.callback(invoke_without_command=True)
    def without_command(
        context: typer.Context,
        version: bool = typer.Option(False, "--version", help="Print the version and stop.", is_eager=True),
    ) -> None:
        if version:
            from propscope import __version__

            print(f"propscope {__version__}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            print(context.get_help())

    return app


def main(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 fine, 1 a check failed, 2 wrong use or bad input, 130 stopped."""
    from propscope.cli.running import guarded

    return guarded(build(), sys.argv[1:] if arguments is None else arguments)
