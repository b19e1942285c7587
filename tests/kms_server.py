"""A stand-in for Cloud KMS: `encrypt` and `decrypt` of its REST API, with checksums, versions and refusals.

tests/conformance/test_key_wrapper.py holds it to Google's own client library.
"""

import base64
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google_crc32c
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from waiting import DEADLINE_SECONDS

NAME = "projects/test/locations/europe-west3/keyRings/bridge/cryptoKeys/"
PARTY_KEY, SECRETS_KEY = NAME + "party-data", NAME + "webhook-secrets"
_CALL = re.compile(
    r"/v1/(projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+):(encrypt|decrypt)(\?.*)?"
)


class RefusedError(Exception):
    def __init__(self, http_status, status, message):
        super().__init__(message)
        self.http_status, self.status = http_status, status


class KmsServer:
    """`keys`: versions by CryptoKey, the last is the primary; None: disabled. `denied`: no permission.

    The next `failures` requests get 503. `damage`: answers arrive damaged.
    """

    def __init__(self, *names):
        self.keys = {name: [AESGCM.generate_key(256)] for name in names or (PARTY_KEY, SECRETS_KEY)}
        self.denied = set()
        self.failures = 0
        self.damage = False
        self.calls = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                server.answer(self)

            def log_message(self, *_arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.host = f"127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(DEADLINE_SECONDS)

    def rotate(self, name):
        self.keys[name].append(AESGCM.generate_key(256))

    def answer(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        try:
            status, document = 200, self._answer(handler.path, body)
        except RefusedError as error:
            status = error.http_status
            document = {"error": {"code": status, "message": str(error), "status": error.status}}
        content = json.dumps(document).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json; charset=UTF-8")
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _answer(self, path, body):
        found = _CALL.fullmatch(path)
        if not found:
            raise RefusedError(404, "NOT_FOUND", "no such method")
        name, verb = found.group(1), found.group(2)
        self.calls.append((verb, name))
        if self.failures:
            self.failures -= 1
            raise RefusedError(503, "UNAVAILABLE", "The service is currently unavailable.")
        if name in self.denied:
            message = (
                f"Permission 'cloudkms.cryptoKeyVersions.useTo{verb.title()}' denied on resource '{name}'"
            )
            raise RefusedError(403, "PERMISSION_DENIED", message)
        if name not in self.keys:
            raise RefusedError(404, "NOT_FOUND", f"CryptoKey {name} not found.")
        bound_to = _member(body, "additionalAuthenticatedData")
        return (
            self._encrypt(name, body, bound_to) if verb == "encrypt" else self._decrypt(name, body, bound_to)
        )

    def _encrypt(self, name, body, bound_to):
        plaintext = _member(body, "plaintext")
        version = len(self.keys[name])
        nonce = os.urandom(12)
        sealed = AESGCM(self.keys[name][-1]).encrypt(nonce, plaintext, bound_to)
        return {
            "name": f"{name}/cryptoKeyVersions/{version}",
            **self._shown("ciphertext", bytes([version]) + nonce + sealed),
            "verifiedPlaintextCrc32c": "plaintextCrc32c" in body,
            "verifiedAdditionalAuthenticatedDataCrc32c": "additionalAuthenticatedDataCrc32c" in body,
            "protectionLevel": "SOFTWARE",
        }

    def _decrypt(self, name, body, bound_to):
        wrapped = _member(body, "ciphertext")
        version = wrapped[0] if wrapped else 0
        key = self.keys[name][version - 1] if 1 <= version <= len(self.keys[name]) else b""
        if key is None:
            message = f"{name}/cryptoKeyVersions/{version} is not enabled, current state is: DISABLED."
            raise RefusedError(400, "FAILED_PRECONDITION", message)
        try:
            plaintext = AESGCM(key).decrypt(wrapped[1:13], wrapped[13:], bound_to)
        except (InvalidTag, ValueError) as error:
            message = "Decryption failed: verify that 'name' refers to the correct CryptoKey."
            raise RefusedError(400, "INVALID_ARGUMENT", message) from error
        primary = version == len(self.keys[name])
        return self._shown("plaintext", plaintext) | {"usedPrimary": primary, "protectionLevel": "SOFTWARE"}

    def _shown(self, member, value):
        checksum = google_crc32c.value(value)
        return {
            member: base64.b64encode(value).decode(),
            f"{member}Crc32c": str(checksum ^ 1 if self.damage else checksum),
        }


def _member(body, name):
    value = base64.b64decode(body.get(name, ""))
    checksum = body.get(f"{name}Crc32c")
    if checksum is not None and int(checksum) != google_crc32c.value(value):
        raise RefusedError(
            400, "INVALID_ARGUMENT", f"The checksum in field {name}_crc32c did not match the data"
        )
    return value
