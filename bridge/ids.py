"""Identifiers: a prefix that says what it is, then a time-ordered body; and what SAP knows us by."""

import base64
import hashlib
import os
import uuid
from datetime import datetime
from typing import Literal

Prefix = Literal["pay", "op", "evt", "whe", "dlv", "par", "rec"]

RANDOM_BYTES = 10
REFERENCE_CHARACTERS = 16
_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
# two characters at once
_PAIRS = [high + low for high in _CROCKFORD for low in _CROCKFORD]
_BODY_PAIRS = 13
# RFC 9562 name-space for the UUIDs under which SAP knows our requests; made once, never changed.
_SAP_UUID_NAMESPACE = uuid.UUID("6c1b3c70-5d0e-5b55-9f4c-1b1e9f0f6a0e")


def new_id(prefix: Prefix, now: datetime) -> str:
    """Return `prefix_` and 26 characters: 48 bits of milliseconds, 80 random bits (the ULID layout).

    Ids made later sort later, down to the millisecond.
    """
    milliseconds = int(now.timestamp() * 1000)
    return _render(
        prefix, (milliseconds << (RANDOM_BYTES * 8)) | int.from_bytes(os.urandom(RANDOM_BYTES), "big")
    )


def first_id(prefix: Prefix, moment: datetime) -> str:
    """Return the lowest id that `new_id` could have made at that moment."""
    return _render(prefix, int(moment.timestamp() * 1000) << (RANDOM_BYTES * 8))


def _render(prefix: Prefix, number: int) -> str:
    body = []
    for _ in range(_BODY_PAIRS):
        body.append(_PAIRS[number & 1023])
        number >>= 10
    body.reverse()
    return f"{prefix}_{''.join(body)}"


def sap_reference(operation_id: str) -> str:
    """Return the 16 characters A-Z2-7 that SAP stores as DocumentReferenceID (XBLNR) for the operation.

    A hash, because the head of a time-ordered id would collide; the same in every generation.
    """
    digest = hashlib.sha256(operation_id.encode()).digest()
    return base64.b32encode(digest).decode()[:REFERENCE_CHARACTERS]


def sap_message_uuid(operation_id: str, generation: int) -> uuid.UUID:
    """Return MessageHeader/UUID of the operation's request: the same for every repetition of a generation.

    The generation rises only after SAP has definitely refused, never on an unknown outcome.
    """
    return uuid.uuid5(_SAP_UUID_NAMESPACE, f"{operation_id}/{generation}")
