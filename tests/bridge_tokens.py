"""JWS made by hand, so that a test can sign what no library would."""

import base64
import json

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding
from joserfc.jwk import OctKey


def encode(header, payload, key):
    """Sign `payload` (claims or raw bytes) the way header["alg"] says; members that are None are left out."""
    kept = {name: value for name, value in header.items() if value is not None}
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    message = b".".join((_part(json.dumps(kept).encode()), _part(body)))
    return b".".join((message, _part(_signature(kept["alg"], message, key)))).decode()


def _signature(algorithm, message, key):
    if isinstance(key, OctKey):
        mac = hmac.HMAC(key.raw_value, hashes.SHA256())
        mac.update(message)
        return mac.finalize()
    digest = hashes.SHA384() if algorithm.endswith("384") else hashes.SHA256()
    pss = padding.PSS(padding.MGF1(digest), padding.PSS.DIGEST_LENGTH)
    return key.private_key.sign(message, pss if algorithm.startswith("PS") else padding.PKCS1v15(), digest)


def _part(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
