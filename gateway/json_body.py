"""Request bodies: bounded while they are read, JSON without the ambiguities that parsers disagree on.

RFC 7493 (I-JSON): UTF-8, no duplicate members, no NaN or infinity. What can't be read is 400, not 422.
"""

import json
from typing import Any

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge

from bridge.errors import FieldError, RejectedError
from bridge.web.strict import malformed

JSON_MEDIA_TYPE = "application/json"
_NOT_AN_OBJECT = "must be an object"


class _AmbiguousError(ValueError):
    """Valid for Python's parser, but not one meaning for all."""


def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Return the raw JSON body; 415 for another type or encoding, 413 above `max_bytes`, chunked or not."""
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if request.mimetype != JSON_MEDIA_TYPE or charset not in ("utf-8", "utf8"):
        raise RejectedError("unsupported-media-type", 415, "Send the body as application/json in UTF-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RejectedError("unsupported-media-type", 415, "Send the body without a content encoding.")
    return read_bounded(request, max_bytes=max_bytes)


def read_bounded(request: Request, *, max_bytes: int) -> bytes:
    """Return the raw body; 413 above `max_bytes`, counted while reading: a chunked body has no length."""
    # Werkzeug cuts a body without a length at the limit and says nothing: one byte more tells.
    request.max_content_length = max_bytes + 1
    try:
        body = request.get_data(cache=False)
    except OSError as error:
        raise malformed("The body could not be read to its end.") from error
    if len(body) > max_bytes:
        raise RequestEntityTooLarge
    return body


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; 400 if it is not JSON of one meaning, 422 if it is not an object."""
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant
        )
    except UnicodeDecodeError as error:
        raise malformed("The body is not UTF-8.") from error
    except _AmbiguousError as error:
        raise malformed(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise malformed("The body is not JSON, or nested too deeply.") from error
    if not isinstance(document, dict):
        raise RejectedError(
            "invalid-request", 422, "The body is not as it must be.", errors=(FieldError("", _NOT_AN_OBJECT),)
        )
    return document


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _AmbiguousError("The body has an object with two members of the same name.")
    return members


def _no_constant(_name: str) -> Any:
    raise _AmbiguousError("NaN and Infinity are not JSON.")
