"""Why an operator changes something, as the audit trail keeps it."""

import unicodedata

MAX_REASON_CHARACTERS = 500
_ALLOWED_CONTROLS = frozenset("\n\t")


def is_reason(text: str) -> bool:
    """Tell whether the text can be kept: neither empty nor too long, no control characters but lines."""
    return 1 <= len(text) <= MAX_REASON_CHARACTERS and not any(
        unicodedata.category(c) in ("Cc", "Cs") and c not in _ALLOWED_CONTROLS for c in text
    )
