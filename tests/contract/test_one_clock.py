"""No service reads a clock of its own: what two processes compare comes from the database's."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
SERVICES = ("bridge", "gateway", "dispatcher", "sap_adapter", "webhooks", "partners", "backoffice")
# the clocks themselves
CLOCKS = {"bridge/clock.py", "bridge/storage/database_clock.py"}
WALL_CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "localtime", "gmtime"}
SQL_CLOCKS = re.compile(
    r"\b(now|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\("
    r"|\b(current_timestamp|localtimestamp|current_date|current_time)\b",
    re.IGNORECASE,
)


def sources():
    for service in SERVICES:
        for path in sorted((REPOSITORY / service).rglob("*.py")):
            name = str(path.relative_to(REPOSITORY))
            if name not in CLOCKS:
                yield name, ast.parse(path.read_text(encoding="utf-8"))


def is_wall_clock(node):
    """Whether `node` is datetime.now, time.time and the like, or the machine's clock as a Clock."""
    match node:
        case ast.Attribute(value=ast.Name("datetime" | "date" | "time" | "dt"), attr=attribute):
            return attribute in WALL_CLOCKS
        case ast.Attribute(value=ast.Attribute(attr="datetime" | "date"), attr=attribute):
            return attribute in WALL_CLOCKS
        case ast.Name("SystemClock") | ast.alias("SystemClock"):
            return True
    return False


def test_no_service_reads_the_machines_clock():
    guilty = [
        f"{name}:{node.lineno}" for name, tree in sources() for node in ast.walk(tree) if is_wall_clock(node)
    ]
    assert guilty == []


def test_no_statement_reads_a_clock():
    """Time is a parameter. What a comment says is no statement."""
    guilty = [
        f"{name}:{node.lineno}"
        for name, tree in sources()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "/*" in node.value
        if SQL_CLOCKS.search(re.sub(r"/\*.*?\*/", "", node.value, flags=re.DOTALL))
    ]
    migrations = REPOSITORY / "bridge/storage/migrations/versions"
    guilty += [
        path.name
        for path in migrations.glob("*.sql")
        if SQL_CLOCKS.search(re.sub(r"--.*", "", path.read_text(encoding="utf-8")))
    ]
    assert guilty == []


@pytest.mark.parametrize(
    "text",
    [
        "datetime.now(UTC)",
        "time.time()",
        "dt.datetime.now()",
        "SystemClock()",
        "from bridge.clock import SystemClock",
    ],
)
def test_what_would_be_found_is_found(text):
    assert any(is_wall_clock(node) for node in ast.walk(ast.parse(text)))
