"""A page for each public package, from the docstrings of its public names."""

import inspect
import pkgutil
import re
from importlib import import_module
from types import ModuleType
from typing import Any

from sphinx.util.nodes import make_refnode

import propscope

# Public modules whose classes are all public; they have no list of them.
OTHERS = [
    "propscope.errors",
    "propscope.integrations.accelerate",
    "propscope.integrations.lightning",
    "propscope.integrations.transformers",
]


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name; `index` lists them."""
    documented: dict[int, str] = {}
    # The package itself comes first: what it offers is described there, and nowhere again.
    written = {name: _page(import_module(name), documented) for name in ("propscope", *packages())}
    written = {name: text for name, text in written.items() if text}
    rows = "".join(f"| [{name}]({name}.md) | {_first_sentence(import_module(name))} |\n" for name in written)
    names = "\n".join(written)
    index = (
        "# Python\n\nThe names of `propscope` itself are what most programs need. Those of the other packages are the "
        "parts that they are made of.\n\n"
        f"| package | what it holds |\n|---|---|\n{rows}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    return {"index": index} | written


def packages() -> list[str]:
    """Return the dotted names of the public packages and modules below propscope."""
    below = pkgutil.walk_packages(propscope.__path__, "propscope.")
    saying = [module.name for module in below if module.ispkg and hasattr(import_module(module.name), "__all__")]
    return sorted(saying + OTHERS)


def _page(module: ModuleType, documented: dict[int, str]) -> str:
    entries = []
    for name in _in_order(module, public_names(module)):
        value = getattr(module, name)
        dotted = f"{module.__name__}.{name}"
        if isinstance(value, ModuleType) or documented.setdefault(id(value), dotted) != dotted:
            continue
        entries.append(f".. {_directive(value)}:: {dotted}\n{_options(value)}")
    if not entries:
        return ""
    rst = "\n".join([f".. currentmodule:: {module.__name__}\n", *entries])
    return f"# {module.__name__}\n\n```{{eval-rst}}\n.. automodule:: {module.__name__}\n   :no-members:\n\n{rst}\n```\n"


def public_names(module: ModuleType) -> list[str]:
    """Return what a module says is public; without `__all__`, its own classes and functions."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and callable(value)
    ]


def _in_order(module: ModuleType, names: list[str]) -> list[str]:
    """Functions first: they are what is called; then classes, then tables."""
    return sorted(names, key=lambda name: (_rank(getattr(module, name)), name.lower()))


def _rank(value: Any) -> int:
    return 0 if inspect.isroutine(value) else 1 if inspect.isclass(value) else 2


def _directive(value: Any) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"


def _options(value: Any) -> str:
    if inspect.isclass(value):
        return "   :members:\n   :inherited-members: Module, Exception\n" if not issubclass(value, Exception) else ""
    return "" if inspect.isroutine(value) else "   :no-value:\n"


def _first_sentence(module: ModuleType) -> str:
    return " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())


# Where a sentence begins that says what arguments or fields are: "`depth`: ..." or "`include`, `exclude`: ...".
NAMED = re.compile(r"(?:^|(?<=[.;] ))(?=`\w+`(?:(?:, | and )`\w+`)*: )")


def as_written(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Turn a docstring into reStructuredText: what would be markup is escaped, each argument gets a line of its own.

    Docstrings have backticks, paragraphs and lists alone. A paragraph that names several arguments becomes a list.
    """
    paragraphs = "\n".join(lines).strip().split("\n\n")
    text = "\n\n".join(_listed(paragraph) for paragraph in paragraphs)
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*|\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    # What is no name would be read as a title and a target.
    parts[1::2] = [f"`{part}`" if re.fullmatch(r"[\w.]+", part) else f"``{part}``" for part in parts[1::2]]
    lines[:] = [*"".join(parts).split("\n"), ""]


def _listed(paragraph: str) -> str:
    flowing = " ".join(paragraph.split())
    starts = [match.start() for match in NAMED.finditer(flowing)]
    if len(starts) < 2 or re.match(r"[-*] ", paragraph):
        return paragraph
    before, items = (
        flowing[: starts[0]].strip(),
        [flowing[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)],
    )
    return "\n\n".join([before] * bool(before) + ["\n".join(f"- {item.strip()}" for item in items)])


def resolve(app: Any, env: Any, node: Any, text: Any) -> Any:
    """Return the link of a name that one class or function has, wherever that lies; None where there is none."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    found = {
        entry.node_id: entry
        for name, entry in env.domains["py"].objects.items()
        if name.endswith(f".{target}") and entry.objtype in ("class", "exception", "function") and not entry.aliased
    }
    if len(found) != 1:
        return None
    (entry,) = found.values()
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, text, target)
