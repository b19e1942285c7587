"""The header `X-Reason`: why an operator changes something, as percent-encoded UTF-8 (RFC 3986 section 2.1).

A header carries only visible ASCII safely; encoded, a reason may be in any language and have lines.
"""

from urllib.parse import unquote

from flask import request

from bridge.errors import RejectedError
from bridge.reason import MAX_REASON_CHARACTERS, is_reason

REASON_HEADER = "X-Reason"


def read_reason() -> str:
    """Return the reason of the request that is being answered. RejectedError (400): there is none to keep."""
    try:
        reason = unquote(request.headers.get(REASON_HEADER, ""), errors="strict").strip()
    except UnicodeDecodeError:
        reason = ""
    if not is_reason(reason):
        detail = (
            f"{REASON_HEADER} has to say why: 1 to {MAX_REASON_CHARACTERS} characters, "
            "in UTF-8 and percent-encoded."
        )
        raise RejectedError("reason-required", 400, detail)
    return reason
