"""How many rows a statement reads, as PostgreSQL tells it."""

from sqlalchemy import text


def rows_read(engine, statement, **parameters):
    """Rows that the statement reads of tables, those that it throws away included."""
    with engine.begin() as connection:
        plan = connection.execute(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}"), parameters
        ).scalar()
    return sum(
        (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
        for scan in scans_of(plan[0]["Plan"])
    )


def scans_of(node):
    if "Relation Name" in node:
        yield node
    for child in node.get("Plans", ()):
        yield from scans_of(child)
