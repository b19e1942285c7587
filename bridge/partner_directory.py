"""The partners' configuration as every service reads it: cached, and answering while Firestore is away.

Firestore is the record. A copy is good for `fresh_seconds`; after that Firestore is asked again. While it is
away, or has lost or damaged a document, the newest copy that this process or the mirror in PostgreSQL has
goes on being served, up to `max_stale_seconds` after a reader last saw it in Firestore.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.errors import SettingsError, TransientError
from bridge.partner import CLIENT_ID_PATTERN, PARTNER_ID_PATTERN, PartnerConfiguration
from bridge.partner_mirror import MirroredPartner, PartnerMirror
from bridge.partner_source import PartnerSource, in_background
from bridge.ports import InvalidDocumentError, PartnerStore
from bridge.single_flight import SingleFlight

DAY_SECONDS = 86_400
DEFAULT_MAX_STALE_SECONDS = 7 * DAY_SECONDS
LONGEST_MAX_STALE_SECONDS = 90 * DAY_SECONDS
# How often a reader tells the mirror that an unchanged document is still in Firestore.
MIRROR_TOUCH_SECONDS = 3600.0
MAX_ABSENT_KEYS = 10_000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PartnerDirectorySettings:
    """`max_stale_seconds` counts from when a reader last saw the document in Firestore.

    `away_seconds` is how long Firestore is left alone after a failure.
    """

    max_stale_seconds: float = DEFAULT_MAX_STALE_SECONDS
    fresh_seconds: float = 30.0
    absent_seconds: float = 5.0
    away_seconds: float = 5.0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "PartnerDirectorySettings":
        """Read PARTNER_MAX_STALE_SECONDS (default 7 days)."""
        value = environ.get("PARTNER_MAX_STALE_SECONDS", str(DEFAULT_MAX_STALE_SECONDS))
        if not (value.isascii() and value.isdigit() and 60 <= int(value) <= LONGEST_MAX_STALE_SECONDS):
            raise SettingsError(f"PARTNER_MAX_STALE_SECONDS is not 60 to {LONGEST_MAX_STALE_SECONDS} seconds")
        return cls(max_stale_seconds=float(value))


@dataclass(frozen=True, slots=True)
class _Copy:
    """Times are on the monotonic clock; `seen_at`: when a reader last saw it in Firestore."""

    configuration: PartnerConfiguration
    seen_at: float
    fresh_until: float
    mirrored_at: float | None = None


class CachedPartnerDirectory:
    """PartnerDirectory over a store and its mirror. Thread-safe; no lock is held during I/O.

    Times are seconds of the clock's monotonic time. One load per partner and per unknown client at a time.
    """

    def __init__(
        self, source: PartnerSource, mirror: PartnerMirror, clock: Clock, settings: PartnerDirectorySettings
    ) -> None:
        self._source = source
        self._mirror = mirror
        self._clock = clock
        self._settings = settings
        self._lock = threading.Lock()
        self._copies: dict[str, _Copy] = {}
        self._owners: dict[str, str] = {}  # client_id → partner_id, a hint that is checked at each use
        self._absent_until: dict[str, float] = {}  # partner and client ids that Firestore does not have
        self._flights: SingleFlight[PartnerConfiguration | None] = SingleFlight()

    def partner(self, partner_id: str, *, at_least_version: int = 0) -> PartnerConfiguration | None:
        """See PartnerDirectory."""
        if not PARTNER_ID_PATTERN.fullmatch(partner_id):
            return None
        return self._as_of_now(self._newest(partner_id, at_least_version))

    def _newest(self, partner_id: str, at_least_version: int) -> PartnerConfiguration | None:
        copy = self._fresh_copy(partner_id)
        if copy is not None and copy.configuration.version >= at_least_version:
            return copy.configuration
        found = copy.configuration if copy is not None else None
        if found is None:
            found = self._flights.run(partner_id, lambda: self._load_partner(partner_id))
        if at_least_version > (found.version if found is not None else 0):
            return self._catch_up(partner_id) or found
        return found

    def _as_of_now(self, found: PartnerConfiguration | None) -> PartnerConfiguration | None:
        """Copies are kept as they are written; what is dated takes effect by the clock."""
        return found.at(self._clock.now()) if found is not None and found.dated_changes else found

    def by_client(self, client_id: str) -> PartnerConfiguration | None:
        """See PartnerDirectory."""
        if not CLIENT_ID_PATTERN.fullmatch(client_id):
            return None
        owner = self._owners.get(client_id)
        if owner is not None:
            configuration = self.partner(owner)
            if _has_client(configuration, client_id):
                return configuration
        return self._as_of_now(self._flights.run(f"client {client_id}", lambda: self._load_client(client_id)))

    def _load_partner(self, partner_id: str) -> PartnerConfiguration | None:
        copy = self._fresh_copy(partner_id)
        if copy is not None:
            return copy.configuration
        if self._is_absent(partner_id):
            return None
        try:
            found = self._source.get(partner_id)
        except TransientError:
            last = self._last_good(partner_id, fresh_seconds=self._settings.away_seconds)
            if last is None:
                raise
            return last
        except InvalidDocumentError as error:
            _log.error("partner document is not valid", partner_id=partner_id, reason=str(error))
            last = self._last_good(partner_id, fresh_seconds=self._settings.fresh_seconds)
            if last is None:
                raise TransientError("the partner's document is damaged and no good copy is left") from error
            return last
        if found is not None:
            return self._confirm(found)
        last = self._last_good(partner_id, fresh_seconds=self._settings.fresh_seconds)
        if last is not None:
            _log.error("partner document is gone from Firestore", partner_id=partner_id, version=last.version)
        else:
            self._remember_absent(partner_id)
        return last

    def _load_client(self, client_id: str) -> PartnerConfiguration | None:
        key = f"client {client_id}"
        if self._is_absent(key):
            return None
        try:
            found = self._source.find_by_client(client_id)
        except (TransientError, InvalidDocumentError) as error:
            mirrored = self._mirror.find_by_client(client_id)
            if mirrored is None:
                raise TransientError("whose client it is can't be found out now") from error
            found = self.partner(mirrored.configuration.partner_id)
        else:
            if found is not None:
                found = self._confirm(found)
            else:
                # Gone from Firestore, or only this client was taken from it? Its own document tells.
                mirrored = self._mirror.find_by_client(client_id)
                found = self.partner(mirrored.configuration.partner_id) if mirrored else None
        if _has_client(found, client_id):
            return found
        self._remember_absent(key)
        return None

    def _confirm(self, found: PartnerConfiguration) -> PartnerConfiguration:
        """Keep what Firestore has just answered, here and in the mirror; return the newest known."""
        now = self._clock.monotonic()
        known = self._copies.get(found.partner_id)
        mirrored_at = known.mirrored_at if known is not None and known.configuration == found else None
        newest = found
        if mirrored_at is None or now - mirrored_at >= MIRROR_TOUCH_SECONDS:
            try:
                standing = self._mirror.remember(found, self._clock.now())
            except TransientError as error:
                _log.warning(
                    "partner not mirrored", partner_id=found.partner_id, reason=type(error.__cause__).__name__
                )
            else:
                mirrored_at = now
                newest = max(newest, standing, key=lambda configuration: configuration.version)
        newest = self._keep(_Copy(newest, now, now + self._settings.fresh_seconds, mirrored_at))
        if newest.version > found.version:
            _log.error(
                "partner document in Firestore is older than one seen before",
                partner_id=found.partner_id,
                version=found.version,
                seen_version=newest.version,
            )
        return newest

    def _last_good(self, partner_id: str, *, fresh_seconds: float) -> PartnerConfiguration | None:
        """Return the newest copy that anybody has kept; TransientError if it is too old to go on with.

        None: there is no copy. It is kept for `fresh_seconds` before Firestore is asked again.
        """
        now = self._clock.monotonic()
        last = self._copies.get(partner_id)
        try:
            mirrored = self._mirror.get(partner_id)
        except TransientError:
            if last is None:
                raise
        else:
            last = _newer(last, self._copy_of(mirrored, now) if mirrored else None)
        if last is None:
            return None
        if now - last.seen_at > self._settings.max_stale_seconds:
            raise TransientError("the newest copy of the partner's document is too old")
        return self._keep(replace(last, fresh_until=now + fresh_seconds))

    def _catch_up(self, partner_id: str) -> PartnerConfiguration | None:
        """Take the newer version from the mirror: Firestore need not be asked for what PostgreSQL knows."""
        mirrored = self._mirror.get(partner_id)
        if mirrored is None:
            return None
        now = self._clock.monotonic()
        fresh_until = now + self._settings.fresh_seconds
        return self._keep(replace(self._copy_of(mirrored, now), fresh_until=fresh_until))

    def _copy_of(self, mirrored: MirroredPartner, now: float) -> _Copy:
        age_seconds = (self._clock.now() - mirrored.seen_at).total_seconds()
        return _Copy(mirrored.configuration, now - max(age_seconds, 0.0), now)

    def _keep(self, copy: _Copy) -> PartnerConfiguration:
        """Keep and return the copy, or the newer version that is here already: no slow load undoes it."""
        partner_id = copy.configuration.partner_id
        with self._lock:
            standing = self._copies.get(partner_id)
            if standing is not None and standing.configuration.version > copy.configuration.version:
                copy = replace(
                    copy,
                    configuration=standing.configuration,
                    seen_at=max(standing.seen_at, copy.seen_at),
                    mirrored_at=standing.mirrored_at,
                )
            self._copies[partner_id] = copy
            self._absent_until.pop(partner_id, None)
            for client in copy.configuration.clients:
                self._owners[client.client_id] = partner_id
                self._absent_until.pop(f"client {client.client_id}", None)
        return copy.configuration

    def _fresh_copy(self, partner_id: str) -> _Copy | None:
        copy = self._copies.get(partner_id)
        return copy if copy is not None and self._clock.monotonic() < copy.fresh_until else None

    def _is_absent(self, key: str) -> bool:
        return self._clock.monotonic() < self._absent_until.get(key, float("-inf"))

    def _remember_absent(self, key: str) -> None:
        with self._lock:
            if len(self._absent_until) >= MAX_ABSENT_KEYS:
                self._absent_until.clear()
            self._absent_until[key] = self._clock.monotonic() + self._settings.absent_seconds


def make_directory(
    store: PartnerStore,
    engine: Engine,
    clock: Clock,
    settings: PartnerDirectorySettings,
    run: Callable[[Callable[[], None]], None] = in_background,
) -> CachedPartnerDirectory:
    """The directory a service shares between its threads. `run` starts the probes of a store that is away."""
    source = PartnerSource(store, clock, settings.away_seconds, run)
    return CachedPartnerDirectory(source, PartnerMirror(engine), clock, settings)


def _has_client(configuration: PartnerConfiguration | None, client_id: str) -> bool:
    return configuration is not None and any(
        client.client_id == client_id for client in configuration.clients
    )


def _newer(ours: _Copy | None, theirs: _Copy | None) -> _Copy | None:
    """The one of the higher version; of the same version, the one seen last."""
    if ours is None or theirs is None:
        return ours or theirs
    return max(ours, theirs, key=lambda copy: (copy.configuration.version, copy.seen_at))
