"""The high-water mark across `make down` and `make up`: the Firestore emulator keeps nothing itself.

By the emulator's REST API, so that the supervisor need not load Google's client.
https://cloud.google.com/firestore/docs/reference/rest/v1/projects.databases.documents
"""

import logging
import urllib.error
import urllib.request
from pathlib import Path

from devstack.layout import PROJECT_ID, Layout

# bridge/gcp/firestore_mark.py says which
DOCUMENT_PATH = f"/v1/projects/{PROJECT_ID}/databases/(default)/documents/high_water_marks/bridge"
TIMEOUT_SECONDS = 5.0
HTTP_NOT_FOUND = 404
# what the emulator says of a document that is there already
HTTP_TAKEN = (400, 409, 412)

log = logging.getLogger("devstack")


def save_mark(layout: Layout) -> None:
    """Write the mark to the stack's folder; before a stop. Whatever fails only makes the next start blind."""
    try:
        with urllib.request.urlopen(_url(layout), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - loopback
            _file(layout).write_bytes(answer.read())
    except OSError as error:
        if not isinstance(error, urllib.error.HTTPError) or error.code != HTTP_NOT_FOUND:
            log.warning("the high-water mark was not saved: %s", error)


def restore_mark(layout: Layout) -> None:
    """Put the saved mark into an emulator that has none."""
    if not _file(layout).exists():
        return
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{_url(layout)}?currentDocument.exists=false",
        data=_file(layout).read_bytes(),
        headers={"Content-Type": "application/json"},
        method="PATCH",
    )
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()  # noqa: S310 - loopback
    except urllib.error.HTTPError as error:
        if error.code not in HTTP_TAKEN:
            raise


def _file(layout: Layout) -> Path:
    return layout.state_folder / "high-water-mark.json"


def _url(layout: Layout) -> str:
    return layout.url("firestore") + DOCUMENT_PATH
