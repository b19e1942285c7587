"""How an operator signs in to the private services: with a Google ID token.

`BRIDGE_OPERATOR_CREDENTIALS` is a file that `gcloud auth application-default login --client-id-file=…` has
written (terraform/README.md). The token's audience is that OAuth client, which Identity-Aware Proxy knows
(https://cloud.google.com/iap/docs/authentication-howto). `BRIDGE_OPERATOR_TOKEN` is a token as such.
"""

import os
from functools import cache

import click
from google.auth import exceptions
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials

CREDENTIALS_VARIABLE = "BRIDGE_OPERATOR_CREDENTIALS"


def operator_token() -> str | None:
    """Return an ID token, None if nothing names the operator; UsageError if the credentials are no good."""
    token = os.environ.get("BRIDGE_OPERATOR_TOKEN")
    if token:
        return token
    path = os.environ.get("BRIDGE_OPERATOR_CREDENTIALS")
    return _id_token(path) if path else None


@cache
def _id_token(path: str) -> str:
    """Have a token issued, once for each run of a command: it is good for an hour."""
    try:
        credentials = Credentials.from_authorized_user_file(path)  # type: ignore[no-untyped-call]
        credentials.refresh(Request())
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{CREDENTIALS_VARIABLE} {path}: not a file of credentials") from error
    except exceptions.GoogleAuthError as error:
        raise click.UsageError(f"{CREDENTIALS_VARIABLE} {path}: sign in again ({error})") from error
    if not credentials.id_token:
        raise click.UsageError(f"{CREDENTIALS_VARIABLE} {path}: sign in again with the scope `openid`")
    return str(credentials.id_token)
