"""What can go wrong, in four classes. Adapters wrap a vendor's errors in one of them, `from` the cause."""

from dataclasses import dataclass


class BridgeError(Exception):
    """Base of all errors the bridge raises on purpose."""


class SettingsError(BridgeError):
    """A variable of the environment is missing or wrong; the text names it. Raised at boot only."""


class TransientError(BridgeError):
    """Nothing happened; the same call may succeed later.

    `retry_after_seconds` is the other side's own wish, where it gave one; `is_overload`: it said that it has
    too much to do (429, 503).
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, is_overload: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.is_overload = is_overload


class RecoveryDueError(TransientError):
    """The database was restored from a backup and has not been compared with SAP yet: nothing is decided."""

    RETRY_AFTER_SECONDS = 60.0

    def __init__(self) -> None:
        super().__init__(
            "the database was restored from a backup and is not recovered",
            retry_after_seconds=self.RETRY_AFTER_SECONDS,
        )


class PermanentError(BridgeError):
    """The same call will never succeed; somebody has to change something first."""


class UnknownOutcomeError(BridgeError):
    """The call may or may not have taken effect; ask before repeating it.

    `is_overload`: the other side said that it has too much to do (503), but not that it did nothing.
    `retry_after_seconds` as for TransientError.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, is_overload: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.is_overload = is_overload


@dataclass(frozen=True, slots=True)
class FieldError:
    """One mistake in a document. `pointer` is a JSON Pointer (RFC 6901) into the request body."""

    pointer: str
    detail: str


class RejectedError(BridgeError):
    """The request can't be done as it was asked, and the asker can mend it (RFC 9457 problem).

    `slug` is the last part of the problem type's URI, `status` the HTTP status that goes with it.
    `members` are extension members of the problem document (RFC 9457 section 3.2).
    """

    def __init__(
        self,
        slug: str,
        status: int,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        members: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.slug = slug
        self.status = status
        self.detail = detail
        self.errors = errors
        self.members = members or {}
        self.headers = headers or {}
