"""Thread pools that need nothing more from the system once they are made."""

import threading
from concurrent.futures import ThreadPoolExecutor


def started_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """Return a pool whose threads all run: a process that is short of memory later needs to start none."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
    start_all(pool, threads)
    return pool


def start_all(pool: ThreadPoolExecutor, threads: int) -> None:
    """Start the pool's threads, as many as it may have.

    RuntimeError if the system gives no more threads; those that have started are free again then.
    """
    all_run = threading.Barrier(threads + 1)
    try:
        for _ in range(threads):
            pool.submit(all_run.wait)
    except RuntimeError:
        all_run.abort()
        raise
    all_run.wait()
