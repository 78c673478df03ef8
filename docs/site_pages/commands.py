"""A page for each command, from what its --help says."""

from typing import Any

import typer

from propscope.cli import COMMANDS, build


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name; `index` lists them."""
    app = typer.main.get_command(build())
    rows = "".join(f"| [{command.name}]({command.name}.md) | {command.help} |\n" for command in COMMANDS)
    names = "\n".join(command.name for command in COMMANDS)
    index = (
        "# Commands\n\nThese pages are what `propscope COMMAND --help` prints.\n\n"
        f"| command | what it does |\n|---|---|\n{rows}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    return {"index": index} | {command.name: _page(command.name, app.commands[command.name]) for command in COMMANDS}


def _page(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(["propscope", name, *command.collect_usage_pieces(context)])
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
    text = [f"# propscope {name}\n", f"```\n{usage}\n```\n", f"{_prose(command.help)}\n"]
    for heading, records in sorted(groups.items(), key=lambda group: (group[0] != "Arguments", group[0] == "Options")):
        rows = "".join(f"| `{_row(flags)}` | {_row(plain(help))} |\n" for flags, help in records)
        text.append(f"## {heading}\n\n| | what it means |\n|---|---|\n{rows}")
    return "\n".join(text)


def _prose(help: str) -> str:
    # typer keeps a paragraph that begins with a backspace character as it is typed.
    return "\n\n".join(
        f"```\n{part[1:].strip()}\n```" if part.startswith("\b") else plain(part) for part in help.split("\n\n")
    )


def _row(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def plain(text: str) -> str:
    """Keep what Markdown would read as markup, save for code in backticks."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        for character in "\\*_<>$[]":
            parts[number] = parts[number].replace(character, f"\\{character}")
    return "`".join(parts)
