"""Documents that commands are given: a file, or - for standard input."""

import json
import sys
from typing import Any

import click


def read_document(file: Any) -> dict[str, Any]:
    """Return the JSON object in the open binary file; ClickException says what else it is."""
    if file is sys.stdin.buffer and sys.stdin.isatty():
        click.echo("reading the document from the terminal; end with Ctrl-D", err=True)
    try:
        document = json.load(file)
    except ValueError as error:
        raise click.ClickException(f"the document is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise click.ClickException("the document is not a JSON object")
    return document
