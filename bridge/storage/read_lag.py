"""What SAP's read side lags by beyond the setting, as it was last seen in a lane."""

from sqlalchemy import Connection, text

RECORD = text("""
    /* the last measurement; a row that says so already is not written */
    UPDATE sap_systems SET read_lag_excess_seconds = :excess_seconds
    WHERE sap_system = :sap_system AND read_lag_excess_seconds <> :excess_seconds
""")

RAISE = text("""
    /* a document was shown later than it could be by what is known */
    UPDATE sap_systems SET read_lag_excess_seconds = :excess_seconds
    WHERE sap_system = :sap_system AND read_lag_excess_seconds < :excess_seconds
""")

SELECT_EXCESS = text("""
    /* how much longer than configured a none has to wait before it counts */
    SELECT read_lag_excess_seconds FROM sap_systems WHERE sap_system = :sap_system
""")


def record_read_lag(connection: Connection, sap_system: str, excess_seconds: float) -> None:
    connection.execute(RECORD, {"sap_system": sap_system, "excess_seconds": excess_seconds})


def raise_read_lag(connection: Connection, sap_system: str, excess_seconds: float) -> None:
    connection.execute(RAISE, {"sap_system": sap_system, "excess_seconds": excess_seconds})


def read_lag_excess_seconds(connection: Connection, sap_system: str) -> float:
    """Return the excess; 0 while the read side keeps to the setting."""
    return float(connection.execute(SELECT_EXCESS, {"sap_system": sap_system}).scalar_one())
