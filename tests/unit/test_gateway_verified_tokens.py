"""A token's signature is verified once; everything that may change is looked at each time."""

from datetime import timedelta

import pytest
from gateway_stage import AUDIENCE, ISSUER, NOW, client, keys
from joserfc import jwt
from joserfc.jwk import RSAKey

from gateway.tokens import AccessTokens, InvalidTokenError
from gateway.verified_tokens import Claims, VerifiedToken, VerifiedTokens

pytestmark = pytest.mark.unit


class Keys:
    """The stage's keys, one of which may be taken away or changed."""

    def __init__(self):
        self.changed = {}

    def signing(self, now):
        return keys().token.signing(now)

    def find(self, kid, now):
        return self.changed[kid] if kid in self.changed else keys().token.find(kid, now)


@pytest.fixture
def kept():
    return Keys()


@pytest.fixture
def tokens(kept):
    return AccessTokens(kept, issuer=ISSUER, audience=AUDIENCE, lifetime_seconds=900)


@pytest.fixture
def verifications(monkeypatch):
    """How often a signature was verified."""
    calls = []
    real = jwt.decode

    def counting(*arguments, **options):
        calls.append(arguments[0])
        return real(*arguments, **options)

    monkeypatch.setattr(jwt, "decode", counting)
    return calls


def issue(tokens, now=NOW):
    return tokens.issue(client("acme"), "par_1", ("payments:read",), now)


def test_a_signature_is_verified_once(tokens, verifications):
    token = issue(tokens)
    first, second = tokens.verify(token, NOW), tokens.verify(token, NOW)
    assert first == second == Claims("par_1", "acme", frozenset({"payments:read"}))
    assert verifications == [token]


def test_a_known_token_still_ends_with_its_time(tokens):
    token = issue(tokens)
    tokens.verify(token, NOW + timedelta(seconds=899))
    with pytest.raises(InvalidTokenError, match="expired"):
        tokens.verify(token, NOW + timedelta(seconds=900))


def test_a_known_token_is_still_from_the_future_for_a_clock_that_went_back(tokens):
    token = issue(tokens)
    tokens.verify(token, NOW)
    with pytest.raises(InvalidTokenError, match="from the future"):
        tokens.verify(token, NOW - timedelta(seconds=60))


def test_a_known_token_goes_with_its_key(tokens, kept):
    token = issue(tokens)
    tokens.verify(token, NOW)
    kept.changed[kept.signing(NOW).kid] = None
    with pytest.raises(InvalidTokenError):
        tokens.verify(token, NOW)


def test_a_known_token_is_verified_again_under_another_key_of_the_same_name(tokens, kept):
    token = issue(tokens)
    tokens.verify(token, NOW)
    kept.changed[kept.signing(NOW).kid] = RSAKey.generate_key(2048)
    with pytest.raises(InvalidTokenError):
        tokens.verify(token, NOW)


def test_a_token_that_was_refused_is_not_remembered(tokens, verifications):
    token = issue(tokens, NOW + timedelta(hours=1))
    for _ in range(2):
        with pytest.raises(InvalidTokenError):
            tokens.verify(token, NOW)
    assert verifications == [token, token]


def test_another_signature_under_known_contents_is_another_token(tokens):
    token = issue(tokens)
    tokens.verify(token, NOW)
    head, payload, signature = token.split(".")
    with pytest.raises(InvalidTokenError):
        tokens.verify(f"{head}.{payload}.{signature[::-1]}", NOW)


def test_what_is_remembered_is_bounded_and_the_one_used_last_stays():
    known = VerifiedToken(Claims("par_1", "acme", frozenset()), 0.0, 1.0, "kid", keys().receipt.signing)
    remembered = VerifiedTokens(max_remembered=3)
    for name in ("a", "b", "c"):
        remembered.remember(name, known)
    assert remembered.find("a") is known
    remembered.remember("d", known)
    assert len(remembered) == 3
    assert remembered.find("b") is None
    assert remembered.find("a") is known
