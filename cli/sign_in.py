"""How an operator signs in to the private services: with a Google ID token.

`BRIDGE_OPERATOR_CREDENTIALS` is a file that `gcloud auth application-default login --client-id-file=…` has
written (terraform/README.md). The token's audience is that OAuth client, which Identity-Aware Proxy knows
(https://cloud.google.com/iap/docs/authentication-howto). `BRIDGE_OPERATOR_TOKEN` is a token as such.
"""

import os
from functools import cache

import click

from bridge.errors import SettingsError

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
    """Have a token issued, once for each run of a command."""
    # a command on the same machine needs none, and should not wait for the library
    from bridge.gcp.sign_in import id_token_of  # noqa: PLC0415

    try:
        return id_token_of(path)
    except SettingsError as error:
        raise click.UsageError(f"{CREDENTIALS_VARIABLE} {error}") from error
