"""Who the command line says it is: google-auth refreshes against a token address that answers by HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import click
import pytest

from cli import sign_in

pytestmark = pytest.mark.unit

VARIABLE, TOKEN_VARIABLE = sign_in.CREDENTIALS_VARIABLE, "BRIDGE_OPERATOR_TOKEN"


@pytest.fixture
def google():
    """Google's token address: `answer` is what it says, `forms` what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            server.forms.append(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()))
            status, document = server.answer
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.forms = []
    server.answer = (200, {"access_token": "a", "expires_in": 3600, "id_token": "the-id-token"})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def credentials(google, tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    file = tmp_path / "application_default_credentials.json"
    monkeypatch.setattr(
        "google.oauth2.credentials._GOOGLE_OAUTH2_TOKEN_ENDPOINT",
        f"http://127.0.0.1:{google.server_port}/token",
    )
    file.write_text(
        json.dumps(
            {
                "type": "authorized_user",
                "client_id": "desktop.apps.googleusercontent.com",
                "client_secret": "not-secret",
                "refresh_token": "r",
            }
        )
    )
    monkeypatch.setenv(VARIABLE, str(file))
    return file


def test_the_credentials_of_a_desktop_client_become_one_id_token(google, credentials):
    assert sign_in.operator_token() == "the-id-token"
    assert sign_in.operator_token() == "the-id-token"
    [form] = google.forms
    assert form["grant_type"] == ["refresh_token"]
    assert form["client_id"] == ["desktop.apps.googleusercontent.com"]


def test_a_token_as_such_goes_first(google, credentials, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "given")
    assert sign_in.operator_token() == "given"
    assert google.forms == []


def test_a_sign_in_that_has_ended_says_what_to_do(google, credentials):
    google.answer = (400, {"error": "invalid_grant", "error_description": "expired or revoked"})
    with pytest.raises(click.UsageError, match="sign in again"):
        sign_in.operator_token()


def test_a_sign_in_without_openid_says_so(google, credentials):
    google.answer = (200, {"access_token": "a", "expires_in": 3600})
    with pytest.raises(click.UsageError, match="scope `openid`"):
        sign_in.operator_token()


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_is_none_says_so(credentials, content):
    credentials.unlink() if content is None else credentials.write_text(content)
    with pytest.raises(click.UsageError, match="not a file of credentials"):
        sign_in.operator_token()


def test_nobody_is_named_by_nothing(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert sign_in.operator_token() is None
