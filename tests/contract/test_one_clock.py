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

# Written as the latest moment that it can be: an early end of any of these may post a payment twice.
MONEY_TIMES = {"lease_until", "settled_at", "none_seen_at"}
# Leases that money does not hang on: what is published or told twice carries the same id both times.
OTHER_LEASES = ("bridge/storage/outbox.py", "bridge/storage/webhook", "webhooks/")
TYPES_OF_MOMENTS = {"Earliest", "Latest"}


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


def loose_money_times(tree):
    """Yield the lines of parameters and fields that take any datetime for a time that money hangs on."""
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as annotation) if name in MONEY_TIMES:
                pass
            case ast.AnnAssign(target=ast.Name(name), annotation=annotation) if name in MONEY_TIMES:
                pass
            case _:
                continue
        if not {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)} <= {"Latest", "None"}:
            yield node.lineno


def makes_a_moment(node):
    """Whether `node` turns any datetime into one of the types that mypy tells apart."""
    match node:
        case ast.Call(func=ast.Name(name) | ast.Attribute(attr=name)) if name in TYPES_OF_MOMENTS:
            return True
        case ast.Call(func=ast.Name("cast"), args=[kind, *_]):
            return bool({part.id for part in ast.walk(kind) if isinstance(part, ast.Name)} & TYPES_OF_MOMENTS)
    return False


def test_a_time_that_money_hangs_on_is_no_mere_datetime():
    """mypy then refuses `clock.now()` there: only a Moment has a latest and an earliest."""
    guilty = [
        f"{name}:{line}"
        for name, tree in sources()
        if not name.startswith(OTHER_LEASES)
        for line in loose_money_times(tree)
    ]
    assert guilty == []


def test_only_the_clock_says_what_is_earliest_and_latest():
    guilty = [
        f"{name}:{node.lineno}" for name, tree in sources() for node in ast.walk(tree) if makes_a_moment(node)
    ]
    assert guilty == []


@pytest.mark.parametrize("text", ["settled_at: datetime", "def f(*, lease_until: datetime | None): ..."])
def test_a_mere_datetime_would_be_found(text):
    assert list(loose_money_times(ast.parse(text)))


@pytest.mark.parametrize("text", ["Latest(clock.now())", "clock.Earliest(now)", "cast(Latest, now)"])
def test_a_moment_made_elsewhere_would_be_found(text):
    assert any(makes_a_moment(node) for node in ast.walk(ast.parse(text)))


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
