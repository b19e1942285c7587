"""`python -m devstack.cloud_tasks --data FILE [--host --port --queue NAME …]`."""

import argparse
import logging
import signal
import sqlite3
import sys
import threading
from concurrent import futures
from pathlib import Path

import grpc

from devstack.cloud_tasks import protos
from devstack.cloud_tasks.dispatcher import Dispatcher
from devstack.cloud_tasks.errors import AlreadyExistsError, CallError
from devstack.cloud_tasks.names import location_of
from devstack.cloud_tasks.service import CloudTasks, handler_of
from devstack.cloud_tasks.store import Store
from devstack.preflight import StartError, lock_beside, require_free_port

CALL_THREADS = 16
STOP_GRACE_SECONDS = 0.5
DEDUPE_SECONDS = 3600.0

logger = logging.getLogger("devstack.cloud_tasks")


def main() -> int:
    arguments = _parser().parse_args()
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        _serve(arguments)
    except StartError as error:
        sys.stderr.write(f"cloud_tasks: {error}\n")
        return 1
    return 0


def _serve(arguments: argparse.Namespace) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    require_free_port(arguments.host, arguments.port)
    with lock_beside(arguments.data):
        store = _open_store(arguments.data, arguments.dedupe_seconds)
        dispatcher = Dispatcher(store)
        calls = CloudTasks(store, dispatcher)
        _create_queues(calls, arguments.queue, arguments.max_concurrent_dispatches)
        server = grpc.server(
            futures.ThreadPoolExecutor(CALL_THREADS),
            handlers=[handler_of(calls)],
            options=[("grpc.so_reuseport", 0)],
        )
        try:
            server.add_insecure_port(f"{arguments.host}:{arguments.port}")
        except RuntimeError as error:  # somebody took the port since it was checked
            raise StartError(f"can't listen on {arguments.host}:{arguments.port}") from error
        server.start()
        dispatcher.start()
        logger.info("serving on %s:%d, data in %s", arguments.host, arguments.port, arguments.data)
        stop.wait()
        logger.info("stopping")
        server.stop(STOP_GRACE_SECONDS).wait()
        dispatcher.stop()
        store.close()


def _open_store(path: Path, dedupe_seconds: float) -> Store:
    try:
        return Store(path, dedupe_seconds=dedupe_seconds)
    except sqlite3.Error as error:
        raise StartError(f"can't use {path}: {error}") from error


def _create_queues(calls: CloudTasks, queue_names: list[str], max_concurrent_dispatches: int | None) -> None:
    for name in queue_names:
        queue = protos.Queue(name=name)
        if max_concurrent_dispatches is not None:
            queue.rate_limits.max_concurrent_dispatches = max_concurrent_dispatches
        try:
            calls.create_queue(protos.CreateQueueRequest(parent=location_of(name), queue=queue))
        except AlreadyExistsError:
            continue  # from an earlier run, with the settings it has there
        except CallError as error:
            raise StartError(f"--queue {name}: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack.cloud_tasks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8088)
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="SQLite file, made if missing"
    )
    parser.add_argument(
        "--queue", action="append", default=[], metavar="NAME", help="full name of a queue to make if missing"
    )
    parser.add_argument(
        "--max-concurrent-dispatches",
        type=int,
        metavar="N",
        help="of each --queue that is made; without it as many as Google allows by default",
    )
    parser.add_argument(
        "--dedupe-seconds", type=float, default=DEDUPE_SECONDS, help="how long a gone task's name stays taken"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
