"""What the parts of a partner's document have in common.

Two releases work on the same documents during a rollout. Members that only the newer one knows pass through
the older one unread: a document that is changed is written back with all of them.
"""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class DocumentPart(BaseModel):
    """Frozen. `model_validate` refuses unknown members; `read` keeps them, and they are written as read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, document: object) -> Self:
        """Read what is stored. ValidationError: it is damaged."""
        return cls.model_validate(document, extra="allow")

    @classmethod
    def without_unknown(cls, document: object) -> Self:
        """As `read`, but without the members that only a newer release knows."""
        return cls.model_validate(document, extra="ignore")

    @model_serializer(mode="wrap")
    def _with_unknown_members(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        known: dict[str, Any] = serialize(self)
        return {**(self.__pydantic_extra__ or {}), **known}
