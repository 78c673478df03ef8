"""How a command prints its tables: as wide as the terminal or wider, with more explained or with less."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from propscope.cli.loudness import quiet
from propscope.cli.options import VIEW, option

if TYPE_CHECKING:
    from propscope.report.table import Block


@dataclass(frozen=True, slots=True)
class View:
    """The options of a command that prints tables."""

    wide: Annotated[bool, option("Print every column, however narrow the terminal is.", VIEW, "--wide")] = False
    explain: Annotated[bool, option("Explain every column below its table.", VIEW, "--explain")] = False

    def print(self, blocks: Iterable[Block]) -> None:
        """Print tables and paragraphs; of a quiet command, tables without what stands around them."""
        from propscope.report.table import Table
        from propscope.report.terminal import print_blocks

        if quiet():
            tables = [block for block in blocks if isinstance(block, Table)]
            blocks = [replace(table, notes=(), legend=(), brief=()) for table in tables]
        print_blocks(blocks, wide=self.wide, explain=self.explain)
