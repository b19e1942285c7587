"""Our signatures, verified by others: before, during, after a rotation; by the specification's vectors.

The tests with npm's svix need Node >= 18 and `npm ci` in tests/node (`make test` runs it where npm is there).
"""

import base64
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ed25519_reference
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gateway_stage import keys
from standardwebhooks import Webhook, WebhookVerificationError
from waiting import DEADLINE_SECONDS

from bridge.webhook_endpoint import WebhookEndpoint
from gateway.webhook_secrets import OVERLAP, SecretMaker
from webhooks.message import Signers, headers_of, signers_of

pytestmark = pytest.mark.integration

NODE_FOLDER = Path(__file__).parents[1] / "node"
BODY = b'{"data":{},"id":"evt_1","type":"payment.paid"}'
ENDPOINT_ID = "whe_" + "1" * 26


def missing_node():
    if shutil.which("node") is None:
        return "Node is not installed"
    if not (NODE_FOLDER / "node_modules" / "svix").is_dir():
        return "svix is not installed: run `npm ci --ignore-scripts` in tests/node"
    return None


class Rotated:
    """One endpoint and its versions: before, and after a rotation at the present moment."""

    def __init__(self):
        self.maker = SecretMaker(keys().webhooks)
        self.now = datetime.now(UTC)
        first = self.maker.secret(ENDPOINT_ID, None)
        self.before = WebhookEndpoint(
            endpoint_id=ENDPOINT_ID,
            url="https://partner.example/",
            secrets=(first,),
            keys=(self.maker.key(ENDPOINT_ID),),
            next_key=self.maker.key(ENDPOINT_ID),
        )
        self.old_secret = self.maker.shown(ENDPOINT_ID, first)

    def rotated(self, ago=timedelta(0)):
        """The endpoint, and its new secret, when it was rotated that long ago."""
        endpoint = self.maker.rotated(self.before, None, self.now - ago)
        return endpoint, self.maker.shown(ENDPOINT_ID, endpoint.secrets[0])

    def headers(self, endpoint):
        return headers_of("evt_1", BODY, signers_of(endpoint, self.maker.key_ring, self.now), self.now)


@pytest.fixture
def rotation():
    return Rotated()


def by_standardwebhooks(secret, headers, body=BODY):
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def by_svix(secret, headers, body=BODY):
    line = json.dumps({"secret": secret, "headers": headers, "body": body.decode()})
    done = subprocess.run(
        ["node", "verify.mjs"],
        cwd=NODE_FOLDER,
        input=line,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "true"


@pytest.fixture(params=["standardwebhooks", "svix"])
def verifies(request):
    if request.param == "standardwebhooks":
        return by_standardwebhooks
    if reason := missing_node():
        pytest.skip(reason)
    return by_svix


def test_v1_is_verified_before_during_and_after_a_rotation(rotation, verifies):
    before = rotation.headers(rotation.before)
    assert verifies(rotation.old_secret, before)
    endpoint, new_secret = rotation.rotated()
    during = rotation.headers(endpoint)
    assert verifies(rotation.old_secret, during)
    assert verifies(new_secret, during)
    assert not verifies(new_secret, before)
    endpoint, new_secret = rotation.rotated(ago=OVERLAP)
    after = rotation.headers(endpoint)
    assert verifies(new_secret, after)
    assert not verifies(rotation.old_secret, after)


def test_what_was_changed_on_the_way_is_not_verified(rotation, verifies):
    headers = rotation.headers(rotation.before)
    assert not verifies(rotation.old_secret, headers, BODY.replace(b"paid", b"lost"))
    assert not verifies(rotation.old_secret, headers | {"webhook-id": "evt_2"})
    seconds = str(int(headers["webhook-timestamp"]) + 1)
    assert not verifies(rotation.old_secret, headers | {"webhook-timestamp": seconds})


def by_the_rfc(public_key, headers, body=BODY):
    """Verify a v1a signature from the whpk_ text alone, by RFC 8032's own formulas."""
    raw = base64.b64decode(public_key.removeprefix("whpk_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    found = [each[4:] for each in headers["webhook-signature"].split() if each.startswith("v1a,")]
    return any(ed25519_reference.verifies(raw, signed, base64.b64decode(each)) for each in found)


def test_v1a_is_verified_by_another_implementation_before_during_and_after_a_rotation(rotation):
    old, following = rotation.before.keys[0].public, rotation.before.next_key.public
    before = rotation.headers(rotation.before)
    assert by_the_rfc(old, before)
    assert not by_the_rfc(following, before)
    during = rotation.headers(rotation.rotated()[0])
    assert by_the_rfc(old, during)
    assert by_the_rfc(following, during), "whoever had taken the next key before is ready"
    after = rotation.headers(rotation.rotated(ago=OVERLAP)[0])
    assert by_the_rfc(following, after)
    assert not by_the_rfc(old, after)
    assert not by_the_rfc(following, after, BODY + b" ")


def test_the_other_implementation_agrees_with_rfc_8032_itself():
    """Section 7.1, TEST 2."""
    public = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert ed25519_reference.verifies(public, b"\x72", signature)
    assert not ed25519_reference.verifies(public, b"\x73", signature)


def test_the_vectors_of_standard_webhooks_come_out_as_they_are_there():
    """The symmetric and the asymmetric vector of the project's own libraries (libraries/go)."""
    seed = base64.b64decode("VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=")
    signers = Signers(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], [Ed25519PrivateKey.from_private_bytes(seed)]
    )
    moment = datetime.fromtimestamp(1614265330, UTC)
    headers = headers_of("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', signers, moment)
    assert headers["webhook-signature"].split() == [
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
    ]
