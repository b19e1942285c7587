"""Each statement and loop with a bound is in the table of docs/reliability.md, with what becomes of the rest.

A statement with LIMIT, or a loop over range(MAX_…), that is new and not listed fails here: whoever adds one
has to say where it goes on next time, and who stands behind the bound.
"""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
SERVICES = ("bridge", "gateway", "dispatcher", "sap_adapter", "webhooks", "partners", "backoffice")
BEGIN, END = "<!-- bounded loops -->", "<!-- end of bounded loops -->"
LIMIT = re.compile(r"\bLIMIT\b")


def listed():
    text = (REPOSITORY / "docs/reliability.md").read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0]
    assert table, "docs/reliability.md has no table of bounded loops"
    return set(re.findall(r"`(\w+\.\w+)`", table))


def sources():
    for service in SERVICES:
        yield from sorted((REPOSITORY / service).rglob("*.py"))


def literals(node):
    """The text of a string or of the constant parts of an f-string, in an expression."""
    return "".join(
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


def limited_statements(tree, stem):
    """`module.NAME` of each assignment, or `module.function` of each function, whose SQL has a LIMIT."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and LIMIT.search(literals(node.value)):
            yield from (f"{stem}.{target.id}" for target in node.targets if isinstance(target, ast.Name))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if any(LIMIT.search(literals(each)) and "SELECT" in literals(each) for each in body):
                yield f"{stem}.{node.name}"


def bounded_loops(tree, stem):
    """`module.MAX_NAME` of each `for … in range(MAX_NAME)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.For) and isinstance(node.iter, ast.Call):
            called = node.iter
            if isinstance(called.func, ast.Name) and called.func.id == "range":
                for argument in called.args:
                    if isinstance(argument, ast.Name) and argument.id.startswith("MAX_"):
                        yield f"{stem}.{argument.id}"


def found():
    names = set()
    for path in sources():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names |= {*limited_statements(tree, path.stem), *bounded_loops(tree, path.stem)}
    return names


def test_every_bounded_statement_and_loop_says_what_becomes_of_the_rest():
    missing = found() - listed()
    assert not missing, f"not in the table of docs/reliability.md: {sorted(missing)}"


def test_the_table_lists_nothing_that_is_gone():
    gone = listed() - found()
    assert not gone, f"in the table of docs/reliability.md, and not in the code: {sorted(gone)}"


def test_a_bound_is_noticed_wherever_it_is_written():
    tree = ast.parse(
        'PAGE = text("SELECT a FROM b LIMIT :limit")\n'
        'OTHER = text(f"SELECT a FROM {b} LIMIT 1")\n'
        "def rows(connection):\n"
        '    """LIMIT is only told of here."""\n'
        "    for _ in range(MAX_ROUNDS):\n"
        "        pass\n"
    )
    assert set(limited_statements(tree, "m")) == {"m.PAGE", "m.OTHER"}
    assert set(bounded_loops(tree, "m")) == {"m.MAX_ROUNDS"}
