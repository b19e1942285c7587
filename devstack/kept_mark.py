"""The high-water mark from one `make up` to the next: the Firestore emulator keeps nothing itself.

By the emulator's REST API, so that the supervisor need not load Google's client.
https://cloud.google.com/firestore/docs/reference/rest/v1/projects.databases.documents
"""

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from devstack.layout import PROJECT_ID, Layout

# bridge/gcp/firestore_mark.py says which
DOCUMENT_PATH = f"/v1/projects/{PROJECT_ID}/databases/(default)/documents/high_water_marks/bridge"
TIMEOUT_SECONDS = 5.0
SAVE_SECONDS = 1.0
# what the emulator says of a document that is there already
HTTP_TAKEN = (400, 409, 412)


@contextmanager
def mark_saved(layout: Layout) -> Iterator[Callable[[], None]]:
    """Save the mark all the time, for a stack that is killed; yield what saves it at once, before a stop."""
    ended = threading.Event()

    def save_again_and_again() -> None:
        while not ended.wait(SAVE_SECONDS):
            _save(layout)

    thread = threading.Thread(target=save_again_and_again, name="mark", daemon=True)
    thread.start()
    try:
        yield lambda: _save(layout)
    finally:
        ended.set()
        thread.join(TIMEOUT_SECONDS)


def _save(layout: Layout) -> None:
    """Copy the mark to the stack's folder; if the emulator is away or has none, what is there stays."""
    with suppress(OSError, HTTPException):
        with urllib.request.urlopen(_url(layout), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - loopback
            document = answer.read()
        partial = _file(layout).with_suffix(f".{threading.get_ident()}")
        partial.write_bytes(document)
        partial.replace(_file(layout))


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
