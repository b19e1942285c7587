"""A connection of the worker: what it waits for, what has come of a request, what is left of an answer."""

import socket
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from gunicorn import http
from gunicorn.workers.gthread import TConn

from bridge.web.arrival import Arrival
from bridge.web.incoming import Incoming
from bridge.web.outgoing import Outgoing


class Phase(IntEnum):
    """What a connection that no thread is at waits for."""

    LINGERING = 0
    IDLE = 1
    RECEIVING = 2
    ANSWERING = 3


class Connection(TConn):  # type: ignore[misc]  # gunicorn has no types
    """A connection, what has come of its request, and what is left of its answer."""

    def __init__(self, cfg: Any, peer: socket.socket, client: Any, server: Any) -> None:
        super().__init__(cfg, peer, client, server)
        self.peer = peer
        # what gunicorn's code takes for the socket
        self.sock = Outgoing(peer)
        self.incoming = Incoming()
        self.parser = http.get_parser(cfg, self.incoming, client)
        self.initialized = self.data_ready = True
        self.arrival = Arrival()
        self.phase = Phase.IDLE
        self.since = self.deadline = 0.0
        self.held_bytes = 0
        self.after_answer: Callable[[Connection], None] | None = None

    def fileno(self) -> int:
        return self.peer.fileno()
