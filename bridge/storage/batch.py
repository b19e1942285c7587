"""Many payments at once: what was written, and what the keys stand for that were taken.

Every function takes a connection inside the caller's transaction.
"""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, text

from bridge.storage.accept import NewPayment, TakenKey, accept

SELECT_KEYS = text("""
    /* what some keys of a partner stand for */
    SELECT idempotency_key, fingerprint, payment_id FROM idempotency_keys
    WHERE partner_id = :partner_id AND idempotency_key = ANY(CAST(:idempotency_keys AS text[]))
""")


def accept_in_key_order(connection: Connection, payments: Iterable[NewPayment]) -> set[str]:
    """Write the payments whose keys are free; return the ids of those that were written.

    In key order, so that two batches with the same keys wait for each other at the first of them and nowhere
    else. Raises what `accept` raises; the transaction has then to be undone.
    """
    ordered = sorted(payments, key=lambda new: new.idempotency_key)
    return {new.payment.payment_id for new in ordered if accept(connection, new)}


def find_keys(connection: Connection, partner_id: str, keys: Sequence[str]) -> dict[str, TakenKey]:
    """Return what each of the keys was used for; keys that are free are left out."""
    parameters = {"partner_id": partner_id, "idempotency_keys": list(keys)}
    return {
        row.idempotency_key: TakenKey(bytes(row.fingerprint), row.payment_id)
        for row in connection.execute(SELECT_KEYS, parameters)
    }
