"""Where tests keep what lasts as long as they run: in memory if there is room, otherwise on the disk.

Nearly a thousand tests copy a database of 400 files each, and making a file costs a disk's file system
several times what it costs one in memory. What a process wrote outlives its kill -9 in both.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux has its file system in memory; used through mkdtemp
NEEDED_BYTES = 6 * 1024**3


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder of our own that anybody may pass through, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if _has_room() else None))
    folder.chmod(0o711)  # as root PostgreSQL runs as another account that has to get in
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _has_room() -> bool:
    return MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= NEEDED_BYTES
