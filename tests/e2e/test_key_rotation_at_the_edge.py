"""Keys rotate while partners call through the edge: it has the new key before anything is signed with it."""

import base64
import json
import threading
import time

import pytest
import requests
from click.testing import CliRunner
from local_stack import CALL_TIMEOUT_SECONDS
from waiting import wait_until

from cli.main import main
from devstack.edge.program import JWKS_CACHE_SECONDS
from gateway.signing_keys import REREAD_SECONDS

pytestmark = pytest.mark.e2e

CALLERS = 3
# The local edge's cache is short, so that nobody has to wait a quarter of an hour here.
PUBLISH_AHEAD_SECONDS = round(JWKS_CACHE_SECONDS + REREAD_SECONDS + 5)
# Each caller pauses between its rounds: it is continuity that is tested, not throughput.
ROUND_SECONDS = 0.1


class Callers:
    """Each gets a token, uses it a few times, and gets the next; what was refused is kept."""

    def __init__(self, stack):
        self.stack = stack
        self.kids = {}
        self.rounds = 0
        self.refused = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_TIMEOUT_SECONDS)

    def _call(self, number):
        while not self._stop.wait(ROUND_SECONDS):
            try:
                token = self.stack.token()
                statuses = {self.stack.request("GET", "/v1/payments", token).status_code for _ in range(3)}
            except requests.RequestException as error:
                self.refused.append(error)
                continue
            if statuses != {200}:
                self.refused.append(statuses)
            self.kids[number] = kid_of(token)
            self.rounds += 1


def kid_of(token):
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def test_no_request_through_the_edge_fails_while_keys_rotate(stack):
    folder = stack.layout.keys_folder / "token-signing"
    before = {path.stem for path in folder.glob("*.pem")}
    with Callers(stack) as callers:
        wait_until(lambda: len(callers.kids) == CALLERS or callers.refused)
        ahead = ["--publish-ahead-seconds", str(PUBLISH_AHEAD_SECONDS)]
        done = CliRunner().invoke(main, ["keys", "rotate", "--dir", str(folder), *ahead])
        assert done.exit_code == 0, done.output
        begun_at = time.monotonic()
        (new,) = {path.stem for path in folder.glob("*.pem")} - before
        assert new not in callers.kids.values()
        wait_until(
            lambda: list(callers.kids.values()) == [new] * CALLERS or callers.refused,
            timeout_seconds=PUBLISH_AHEAD_SECONDS + 30,
        )
        assert callers.refused == []
        assert time.monotonic() - begun_at > PUBLISH_AHEAD_SECONDS - 2
        rounds = callers.rounds
        wait_until(lambda: callers.rounds > rounds + 10 * CALLERS or callers.refused)
    assert callers.refused == []
