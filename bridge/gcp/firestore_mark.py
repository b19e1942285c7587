"""Firestore behind the port MarkStore: one document, `high_water_marks/bridge`."""

from typing import Any

from google.cloud.firestore_v1.types import Document, Precondition, Write
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from bridge.gcp.firestore_documents import FirestoreDocuments, FirestoreSettings, decode, encode
from bridge.high_water_mark import HighWaterMark, StandingMark
from bridge.ports import InvalidDocumentError

DOCUMENT = "high_water_marks/bridge"


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    database_id: str = Field(min_length=1)
    serial: int = Field(ge=1)
    token: str = Field(min_length=1)
    epoch: int = Field(ge=1)
    proposed_at: AwareDatetime


def make_mark_store(settings: FirestoreSettings) -> "FirestoreMarkStore":
    """The mark in one Firestore database; the first use opens the connection."""
    return FirestoreMarkStore(settings)


class FirestoreMarkStore(FirestoreDocuments):
    """MarkStore on Firestore. A document that is replaced has another update time: that is its version."""

    def read(self) -> StandingMark | None:
        """See MarkStore."""
        document = self._get(self._name())
        return None if document is None else StandingMark(_mark(document), document.update_time)

    def write(self, mark: HighWaterMark, over: StandingMark | None) -> None:
        """See MarkStore."""
        if over is not None and mark.serial <= over.mark.serial:
            raise ValueError("the serial has to rise")
        precondition = Precondition(exists=False) if over is None else Precondition(update_time=over.version)
        self._commit(
            Write(
                update=Document(name=self._name(), fields=encode(_fields(mark))),
                current_document=precondition,
            )
        )

    def _name(self) -> str:
        return f"{self._parent}/{DOCUMENT}"


def _fields(mark: HighWaterMark) -> dict[str, Any]:
    return {
        "database_id": mark.database_id,
        "serial": mark.serial,
        "token": mark.token,
        "epoch": mark.epoch,
        "proposed_at": mark.proposed_at.isoformat(),
    }


def _mark(document: Any) -> HighWaterMark:
    try:
        fields = _Fields.model_validate(decode(document.fields))
    except ValidationError as error:
        wrong = sorted({".".join(map(str, problem["loc"])) for problem in error.errors()})
        raise InvalidDocumentError(f"{DOCUMENT}: {', '.join(wrong)}") from None
    return HighWaterMark(**fields.model_dump())
