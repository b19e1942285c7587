"""How the commands show things: a table for people, `--json` for programs."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

# what is written to a file or a pipe is cut nowhere
PIPE_COLUMNS = 10_000

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


as_shell = click.option("--shell", "as_shell", is_flag=True, help="Print lines for `eval` in a shell.")


def print_shell(variables: Mapping[str, str]) -> None:
    """Print what sets the variables in the shell that evaluates it."""
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print one line per row; what is None stays blank. Markup in a value is shown, not obeyed."""
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_COLUMNS
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    console.print(table)
