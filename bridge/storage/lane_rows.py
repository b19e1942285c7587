"""A lane's guard as its row: read under lock, decided by bridge.lane, written back if that changed it."""

from typing import Any

from sqlalchemy import Connection, Row, text

from bridge.lane import Answers, Lane, Rate

COLUMNS = """hard_cap, call_window, held, growth_limit, grow_not_before, growth_steps, shrunk_at,
           probe_not_before, failed_probes, closed_at, failing_operations, folded_answers,
           folded_latency_ms, folded_at, latency_ms, answers_per_second, rated_answers, rated_at"""

UPDATE_LANE = text("""
    /* what the guard has become; caps and holds are the operators own */
    UPDATE sap_systems
    SET call_window = :call_window, growth_limit = :growth_limit, grow_not_before = :grow_not_before,
        growth_steps = :growth_steps, shrunk_at = :shrunk_at, probe_not_before = :probe_not_before,
        failed_probes = :failed_probes, closed_at = :closed_at, failing_operations = :failing_operations,
        folded_answers = :folded_answers, folded_latency_ms = :folded_latency_ms, folded_at = :folded_at,
        latency_ms = :latency_ms, answers_per_second = :answers_per_second, rated_answers = :rated_answers,
        rated_at = :rated_at
    WHERE sap_system = :sap_system
""")


def lane_of(row: Row[Any]) -> Lane:
    """Read the guard out of a row with COLUMNS."""
    return Lane(
        hard_cap=row.hard_cap,
        call_window=row.call_window,
        held=row.held,
        growth_limit=row.growth_limit,
        grow_not_before=row.grow_not_before,
        growth_steps=row.growth_steps,
        shrunk_at=row.shrunk_at,
        probe_not_before=row.probe_not_before,
        failed_probes=row.failed_probes,
        closed_at=row.closed_at,
        failing_operations=tuple(row.failing_operations),
        folded=Answers(row.folded_answers, row.folded_latency_ms),
        folded_at=row.folded_at,
        latency_ms=row.latency_ms,
        rate=Rate(row.answers_per_second, row.rated_answers, row.rated_at),
    )


def save_lane(connection: Connection, sap_system: str, before: Lane, after: Lane) -> None:
    """Write what has changed since `before` was read; its row is locked."""
    if after == before:
        return
    connection.execute(
        UPDATE_LANE,
        {
            "sap_system": sap_system,
            "call_window": after.call_window,
            "growth_limit": after.growth_limit,
            "grow_not_before": after.grow_not_before,
            "growth_steps": after.growth_steps,
            "shrunk_at": after.shrunk_at,
            "probe_not_before": after.probe_not_before,
            "failed_probes": after.failed_probes,
            "closed_at": after.closed_at,
            "failing_operations": list(after.failing_operations),
            "folded_answers": after.folded.count,
            "folded_latency_ms": after.folded.latency_ms,
            "folded_at": after.folded_at,
            "latency_ms": after.latency_ms,
            "answers_per_second": after.rate.per_second,
            "rated_answers": after.rate.count,
            "rated_at": after.rate.since,
        },
    )
