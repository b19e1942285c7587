"""`python -m benchmarks.routes KIND PORT`: a bare Flask route under the services' own gunicorn settings.

Each kind imports only what it needs, so that `constant` is what a bare Flask application costs.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response

from bridge.web.serve import serve

PATH = "/v1/payments"
THREADS = 16


def make_app(do: Callable[[], None]) -> Flask:
    """Answer every POST with the same constant, after `do`."""
    app = Flask(__name__, static_folder=None)

    @app.get("/")
    def there() -> str:
        return "there"

    @app.post(PATH)
    def post() -> Response:
        do()
        return Response(b'{"status":"accepted"}', status=202, content_type="application/json")

    return app


def constant() -> Flask:
    """The ceiling: nothing but Flask and gunicorn."""
    return make_app(lambda: None)


def storage() -> Flask:
    """The storage part of accepting alone: ids and times are made, nothing is read, judged or signed."""
    from benchmarks.payments import new_payment  # noqa: PLC0415 - the other kinds do not pay for it
    from bridge.storage.accept import accept, make_statement_engine  # noqa: PLC0415 - as above
    from bridge.storage.engine import DatabaseSettings  # noqa: PLC0415 - as above

    settings = DatabaseSettings(os.environ["DATABASE_URL"], None, None, None)
    engine = make_statement_engine(settings, pool_size=THREADS, application_name="bench-storage")
    numbers = itertools.count()
    run = f"{time.time_ns():x}"

    def store() -> None:
        with engine.connect() as connection:
            if not accept(connection, new_payment(run, next(numbers))):
                raise RuntimeError("a new payment was taken for an old one")

    return make_app(store)


def pgqueuer() -> Flask:
    """The peer: PgQueuer's own enqueue with its synchronous driver, one connection per thread."""
    import psycopg  # noqa: PLC0415 - the other kinds do not pay for it
    from pgqueuer.db import SyncPsycopgDriver  # noqa: PLC0415 - as above
    from pgqueuer.queries import SyncQueries  # noqa: PLC0415 - as above

    local = threading.local()

    def queries() -> Any:
        if not hasattr(local, "queries"):
            connection = psycopg.connect(os.environ["PEER_DATABASE"], autocommit=True)
            local.queries = SyncQueries(SyncPsycopgDriver(connection))
        return local.queries

    return make_app(lambda: queries().enqueue("payment", b'{"payment_id":"pay_01"}'))


KINDS = {"constant": constant, "storage": storage, "pgqueuer": pgqueuer}


def main() -> int:
    kind, port = sys.argv[1], int(sys.argv[2])
    return serve(KINDS[kind], host="127.0.0.1", port=port, threads=THREADS, name=f"bench-{kind}")


if __name__ == "__main__":
    sys.exit(main())
