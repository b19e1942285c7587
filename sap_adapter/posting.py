"""One message, one step: claim the operation, post it or ask SAP about it, record what came of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sqlalchemy import Engine

from bridge.clock import Clock
from bridge.errors import TransientError, UnknownOutcomeError
from bridge.keyring import KeyRing
from bridge.messages import OperationMessage
from bridge.partner import PartnerConfiguration
from bridge.ports import PartnerDirectory
from sap_adapter.claiming import Claiming, NoPermitError, PostClaim, QuestionClaim
from sap_adapter.connector import Connector, NotCalledError, Posted
from sap_adapter.ending import Claim
from sap_adapter.permits import PermitQueue
from sap_adapter.read_lag import ReadLag
from sap_adapter.record import Recorder

UNMEASURED_LAGS: Mapping[str, ReadLag] = MappingProxyType({})
NOBODY_WAITS: Mapping[str, PermitQueue] = MappingProxyType({})
OWN_DELAY = TransientError("too much of the lease had passed before the call")


@dataclass(frozen=True, slots=True)
class PostingSettings:
    """Times in seconds: the longest call, and how much longer a claim's lease lasts."""

    call_seconds: float
    lease_margin_seconds: float

    @property
    def lease_seconds(self) -> float:
        return self.call_seconds + self.lease_margin_seconds


class Posting:
    """The adapter's use case. SAP systems without a queue in `permits` are not waited for.

    The read side of those in `read_lags` is measured.
    """

    def __init__(
        self,
        engine: Engine,
        directory: PartnerDirectory,
        connectors: Mapping[str, Connector],
        key_ring: KeyRing,
        recorder: Recorder,
        clock: Clock,
        settings: PostingSettings,
        permits: Mapping[str, PermitQueue] = NOBODY_WAITS,
        read_lags: Mapping[str, ReadLag] = UNMEASURED_LAGS,
    ) -> None:
        self._claiming = Claiming(engine, connectors, key_ring, clock, settings.lease_seconds, permits)
        self._directory = directory
        self._connectors = connectors
        self._recorder = recorder
        self._clock = clock
        self._settings = settings
        self._permits = permits
        self._read_lags = read_lags

    def handle(self, message: OperationMessage) -> None:
        """Take the operation's next step. Returns once something is recorded; raises only if nothing was."""
        partner = self._partner(message.partner_id)
        claimed = self._claim_or_wait(message, partner, self._permits.get(message.sap_system))
        if isinstance(claimed, PostClaim):
            self._post(claimed)
        elif claimed is not None:
            self._ask(claimed)

    def _claim_or_wait(
        self, message: OperationMessage, partner: PartnerConfiguration | None, permits: PermitQueue | None
    ) -> PostClaim | QuestionClaim | None:
        """Claim, if there is a permit; else, or if others wait for one, wait a moment before the only try.

        Nothing is claimed while it waits, and no transaction is open.
        """
        if permits is None or not permits.is_waited_for():
            try:
                return self._claiming.claim(message, partner, may_wait=permits is not None)
            except NoPermitError:
                pass
        if permits is not None:
            permits.wait()
        return self._claiming.claim(message, partner, may_wait=False)

    def _partner(self, partner_id: str) -> PartnerConfiguration | None:
        # Read before the transaction: the directory may go to Firestore.
        try:
            return self._directory.partner(partner_id)
        except TransientError:
            return None

    def _post(self, claimed: PostClaim) -> None:
        claim = claimed.claim
        if not self._lease_outlives_the_call(claim):
            self._end(claim, lambda: self._recorder.not_posted(claim, OWN_DELAY, sap_to_blame=False))
            return
        try:
            outcome = self._connectors[claim.sap_system].post(claimed.sending)
        except TransientError as error:
            failure = error
            is_saps = not isinstance(error, NotCalledError)
            self._end(claim, lambda: self._recorder.not_posted(claim, failure, sap_to_blame=is_saps))
        except UnknownOutcomeError as error:
            lost = error
            self._end(claim, lambda: self._recorder.unknown(claim, lost))
        except Exception as error:  # noqa: BLE001 - SAP may have it, and no permit waits for the lease's end
            broken = UnknownOutcomeError(f"the call ended in {type(error).__name__}")
            self._end(claim, lambda: self._recorder.unknown(claim, broken))
        else:
            # the next may call while this answer is written down
            self._end(claim, lambda: self._recorder.give_back(claim, outcome))
            self._recorder.answered(claim, outcome)
            if isinstance(outcome, Posted) and claim.sap_system in self._read_lags:
                self._read_lags[claim.sap_system].confirmed(outcome.document, claimed.reference)

    def _ask(self, question: QuestionClaim) -> None:
        claim = question.claim
        if not self._lease_outlives_the_call(claim):
            self._end(claim, lambda: self._recorder.question_failed(claim, OWN_DELAY, sap_to_blame=False))
            return
        try:
            found = self._connectors[claim.sap_system].find(question.company_code, question.reference)
        except TransientError as error:
            failure = error
            is_saps = not isinstance(error, NotCalledError)
            self._end(claim, lambda: self._recorder.question_failed(claim, failure, sap_to_blame=is_saps))
        except Exception as error:  # noqa: BLE001 - as in _post
            broken = TransientError(f"the question ended in {type(error).__name__}")
            self._end(claim, lambda: self._recorder.question_failed(claim, broken, sap_to_blame=True))
        else:
            self._end(claim, lambda: self._recorder.found(claim, found))

    def _end(self, claim: Claim, give_back: Callable[[], None]) -> None:
        """Give the permit back, with whatever is recorded with it, and let the next one have it."""
        try:
            give_back()
        finally:
            if claim.sap_system in self._permits:
                self._permits[claim.sap_system].freed()

    def _lease_outlives_the_call(self, claim: Claim) -> bool:
        """Look at the clock that never jumps: past this point somebody else may take the operation over."""
        spent_seconds = self._clock.monotonic() - claim.started_monotonic
        return spent_seconds + self._settings.call_seconds < self._settings.lease_seconds
