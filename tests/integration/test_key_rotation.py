"""Keys rotate while the gateway serves: no request fails, and old tokens are good until they expire."""

import base64
import json
import math
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from gateway_stage import AUDIENCE, ISSUER, GatewayStage, basic, keys
from waiting import DEADLINE_SECONDS, wait_until

from bridge.clock import SystemClock
from cli.keys import PUBLISH_AHEAD_SECONDS
from cli.main import main
from gateway.app import create_app
from gateway.signing_keys import REREAD_SECONDS, VERIFIES_FOR, TokenKeys, read_key_set
from gateway.tokens import AccessTokens

pytestmark = pytest.mark.integration
CALLERS = 4
STEP_SECONDS = 200


class Fleet:
    """Two instances of the gateway on one folder of keys; each has read it at another time."""

    def __init__(self, folder):
        self.folder = folder
        self.rotate()
        self.stage = GatewayStage(now=datetime.now(UTC))
        self.apps = [self._app() for _ in range(2)]
        self.failures = []
        self.kids = {}
        self.served = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]

    def _app(self):
        own = replace(keys(), token=TokenKeys.from_folder(str(self.folder)))
        stage = self.stage
        return create_app(stage.settings, own, stage.engine, stage.directory, stage.record, stage.clock)

    def rotate(self):
        done = CliRunner().invoke(main, ["keys", "rotate", "--dir", str(self.folder)])
        assert done.exit_code == 0, done.output

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)
        self.stage.close()

    def _call(self, number):
        """One instance issues, the other verifies; a token is used for a while, as clients do."""
        issuing, verifying = self.apps[number % 2], self.apps[(number + 1) % 2]
        while not self._stop.is_set():
            form = {"grant_type": "client_credentials"}
            issued = issuing.test_client().post("/oauth2/token", data=form, headers=basic())
            if issued.status_code != 200:
                self._failed(issued)
                continue
            token = issued.json["access_token"]
            for app in (verifying, issuing, verifying):
                # a limit of 0 is a 400 once the door is open
                headers = {"Authorization": f"Bearer {token}"}
                answer = app.test_client().get("/v1/payments?limit=0", headers=headers)
                if answer.status_code != 400:
                    self._failed(answer)
            with self._lock:
                self.kids[number] = kid_of(token)
                self.served += 1

    def _failed(self, answer):
        with self._lock:
            self.failures.append((answer.status_code, answer.data))

    def serve_more(self):
        so_far = self.served
        wait_until(lambda: self.served >= so_far + 2 * CALLERS or self.failures)
        assert self.failures == []

    def pass_time(self, seconds):
        """In steps that no token in use expires over."""
        steps = math.ceil(seconds / STEP_SECONDS)
        for _ in range(steps):
            self.stage.clock.advance(seconds / steps)
            self.serve_more()

    def all_get_tokens_of(self, kid):
        wait_until(lambda: self.failures or list(self.kids.values()) == [kid] * CALLERS)
        return self.failures == []

    def published(self, app):
        found = app.test_client().get("/.well-known/jwks.json").json["keys"]
        return [key["kid"] for key in found]


def kid_of(token):
    head = token.split(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def test_keys_rotate_under_load_without_one_failed_request(tmp_path):
    with Fleet(tmp_path / "keys") as fleet:
        fleet.serve_more()
        (first,) = (key.kid for key in read_key_set(fleet.folder).keys)
        assert fleet.all_get_tokens_of(first)

        fleet.rotate()
        (second,) = (key.kid for key in read_key_set(fleet.folder).keys if key.kid != first)
        fleet.pass_time(REREAD_SECONDS)
        # published before its first use, by both
        assert [fleet.published(app) for app in fleet.apps] == [[first, second]] * 2
        assert fleet.all_get_tokens_of(first)

        fleet.pass_time(PUBLISH_AHEAD_SECONDS)
        assert fleet.all_get_tokens_of(second)
        assert fleet.published(fleet.apps[0]) == [first, second]

        fleet.pass_time(VERIFIES_FOR.total_seconds())
        assert fleet.published(fleet.apps[0]) == [second]


def test_a_token_of_the_old_key_is_good_until_it_expires(tmp_path):
    folder = tmp_path / "keys"
    done = CliRunner().invoke(main, ["keys", "rotate", "--dir", str(folder)])
    assert done.exit_code == 0
    now = SystemClock().now()
    tokens = AccessTokens(
        TokenKeys.from_folder(str(folder)), issuer=ISSUER, audience=AUDIENCE, lifetime_seconds=900
    )
    stage = GatewayStage()
    assert CliRunner().invoke(main, ["keys", "rotate", "--dir", str(folder)]).exit_code == 0
    begins = max(key.signs_from for key in read_key_set(folder).keys)
    owner = stage.partner.clients[0]
    last = tokens.issue(owner, stage.partner.partner_id, owner.scopes, begins - timedelta(seconds=1))
    assert begins > now
    assert tokens.verify(last, begins + timedelta(seconds=898)).client_id == owner.client_id
    stage.close()
