"""A small app on the server that every service has: `python tests/serve_echo.py PORT THREADS`."""

import sys
import threading

from flask import Flask, request
from waiting import DEADLINE_SECONDS

from bridge.web.logs import configure_logs
from bridge.web.problems import register_problems
from bridge.web.serve import serve

LARGE_BYTES = 8 * 1024 * 1024


def make_app():
    app = Flask("echo", static_folder=None)
    register_problems(app)
    may_end = threading.Event()

    @app.get("/livez")
    def livez():
        return {"status": "ok"}

    @app.post("/echo")
    def echo():
        return request.get_data()

    @app.get("/large")
    def large():
        return b"x" * LARGE_BYTES

    @app.get("/wait")
    def wait():
        return {"ended": may_end.wait(DEADLINE_SECONDS)}

    @app.post("/end")
    def end():
        may_end.set()
        return {}

    return app


if __name__ == "__main__":
    configure_logs("echo")
    sys.exit(serve(make_app, host="127.0.0.1", port=int(sys.argv[1]), threads=int(sys.argv[2]), name="echo"))
