"""The port KeyWrapper: the fake, and Cloud KMS as our adapter and as Google's own client speak to it."""

import os

import google_crc32c
import pytest
from fakes.key_wrapper import InMemoryKeyWrapper
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import kms_v1
from google.cloud.kms_v1.services.key_management_service.transports import KeyManagementServiceRestTransport
from kms_server import NAME, PARTY_KEY, SECRETS_KEY, KmsServer

from bridge.errors import PermanentError, TransientError
from bridge.gcp.kms import MAX_RETRIES, cloud_kms

pytestmark = pytest.mark.conformance

DATA_KEY = os.urandom(32)


@pytest.fixture
def server():
    with KmsServer() as running:
        yield running


class GooglesClient:
    """The official client library in the form of our port: what the stand-in has to be good enough for."""

    def __init__(self, host):
        transport = KeyManagementServiceRestTransport(
            host=host, url_scheme="http", credentials=AnonymousCredentials()
        )
        self._client = kms_v1.KeyManagementServiceClient(transport=transport)

    def wrap(self, kms_key, plaintext, bound_to):
        answer = self._client.encrypt(
            request={
                "name": kms_key,
                "plaintext": plaintext,
                "plaintext_crc32c": google_crc32c.value(plaintext),
                "additional_authenticated_data": bound_to,
                "additional_authenticated_data_crc32c": google_crc32c.value(bound_to),
            }
        )
        assert answer.verified_plaintext_crc32c
        assert answer.verified_additional_authenticated_data_crc32c
        assert answer.ciphertext_crc32c == google_crc32c.value(answer.ciphertext)
        return answer.ciphertext

    def unwrap(self, kms_key, wrapped, bound_to):
        try:
            answer = self._client.decrypt(
                request={
                    "name": kms_key,
                    "ciphertext": wrapped,
                    "ciphertext_crc32c": google_crc32c.value(wrapped),
                    "additional_authenticated_data": bound_to,
                    "additional_authenticated_data_crc32c": google_crc32c.value(bound_to),
                }
            )
        except (exceptions.ClientError, ValueError) as error:
            raise PermanentError(str(error)) from error
        assert answer.plaintext_crc32c == google_crc32c.value(answer.plaintext)
        return answer.plaintext


@pytest.fixture(params=["fake", "adapter", "googles-client"])
def wrapper(request, server):
    if request.param == "fake":
        yield InMemoryKeyWrapper(PARTY_KEY, SECRETS_KEY)
    elif request.param == "googles-client":
        yield GooglesClient(server.host)
    else:
        with cloud_kms(server.host) as adapter:
            yield adapter


def test_what_was_wrapped_unwraps(wrapper):
    wrapped = wrapper.wrap(PARTY_KEY, DATA_KEY, b"bound")
    assert DATA_KEY not in wrapped
    assert wrapper.wrap(PARTY_KEY, DATA_KEY, b"bound") != wrapped
    assert wrapper.unwrap(PARTY_KEY, wrapped, b"bound") == DATA_KEY


@pytest.mark.parametrize(
    ("name", "bound_to"),
    [(PARTY_KEY, b"other"), (PARTY_KEY, b""), (SECRETS_KEY, b"bound"), (NAME + "unknown", b"bound")],
)
def test_another_key_or_another_binding_is_refused(wrapper, name, bound_to):
    wrapped = wrapper.wrap(PARTY_KEY, DATA_KEY, b"bound")
    with pytest.raises(PermanentError):
        wrapper.unwrap(name, wrapped, bound_to)


def test_damaged_bytes_are_refused(wrapper):
    wrapped = wrapper.wrap(PARTY_KEY, DATA_KEY, b"bound")
    for damaged in (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), wrapped[:5], b"\x01"):
        with pytest.raises(PermanentError):
            wrapper.unwrap(PARTY_KEY, damaged, b"bound")


# What only the adapter meets


def test_older_versions_unwrap_until_they_are_disabled(server):
    with cloud_kms(server.host) as adapter:
        wrapped = adapter.wrap(PARTY_KEY, DATA_KEY, b"bound")
        server.rotate(PARTY_KEY)
        assert adapter.unwrap(PARTY_KEY, wrapped, b"bound") == DATA_KEY
        server.keys[PARTY_KEY][0] = None
        with pytest.raises(PermanentError, match=r"FAILED_PRECONDITION: .* DISABLED"):
            adapter.unwrap(PARTY_KEY, wrapped, b"bound")


def test_a_passing_failure_is_asked_again_and_a_lasting_one_told(server):
    with cloud_kms(server.host, backoff_seconds=0.01) as adapter:
        wrapped = adapter.wrap(PARTY_KEY, DATA_KEY, b"bound")
        server.failures = MAX_RETRIES
        assert adapter.unwrap(PARTY_KEY, wrapped, b"bound") == DATA_KEY
        server.failures = 100
        with pytest.raises(TransientError, match="503"):
            adapter.unwrap(PARTY_KEY, wrapped, b"bound")


def test_an_answer_that_was_damaged_on_its_way_is_not_believed(server):
    with cloud_kms(server.host) as adapter:
        wrapped = adapter.wrap(PARTY_KEY, DATA_KEY, b"bound")
        server.damage = True
        with pytest.raises(TransientError, match="damaged"):
            adapter.unwrap(PARTY_KEY, wrapped, b"bound")
        with pytest.raises(TransientError, match="damaged"):
            adapter.wrap(PARTY_KEY, DATA_KEY, b"bound")


def test_who_may_not_is_told_which_permission_is_missing(server):
    with cloud_kms(server.host) as adapter:
        wrapped = adapter.wrap(PARTY_KEY, DATA_KEY, b"bound")
        server.denied = {PARTY_KEY}
        with pytest.raises(PermanentError, match=r"PERMISSION_DENIED: .*useToDecrypt"):
            adapter.unwrap(PARTY_KEY, wrapped, b"bound")


def test_nobody_there_is_no_refusal():
    with cloud_kms("127.0.0.1:1", backoff_seconds=0.01) as adapter, pytest.raises(TransientError):
        adapter.unwrap(PARTY_KEY, b"x" * 60, b"bound")
