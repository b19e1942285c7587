"""The operators' private APIs as the commands call them: who asks, and what went wrong in words."""

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click
import requests

from cli.http import call, is_local, json_of
from cli.sign_in import operator_token

TIMEOUT_SECONDS = 30.0
# what X-Reason has in clear (bridge.web.reasons): visible ASCII but % and the comma
_IN_CLEAR = " !\"#$&'()*+-./:;<=>?@[\\]^_`{|}~"
_TOKEN = re.compile(r"[!-~]+")
# what X-Operator may have
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._@+-]")


class ApiError(click.ClickException):
    """The service refused, or did not answer. `status` is None when there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered. `version` is the ETag's, where it has one."""

    body: Any
    version: int | None


@dataclass(frozen=True, slots=True)
class Api:
    """One private service. The operator is named by an ID token (cli/sign_in.py).

    A service on this machine (the local stack) is told the user's name instead, and believes it.
    """

    base_url: str

    def get(self, path: str, **parameters: Any) -> Answer:
        """ApiError for anything but a 2xx."""
        given = {name: value for name, value in parameters.items() if value is not None}
        return self._call("GET", path, parameters=given)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        reason: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Change something; `reason` goes to the audit trail. ApiError for anything but a 2xx."""
        named = {"X-Reason": quote(reason, safe=_IN_CLEAR)} if reason is not None else {}
        return self._call(method, path, body=body, headers={**named, **(headers or {})})

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        parameters: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = call(
            method,
            self.base_url,
            path,
            params=parameters,
            json=body,
            headers={**self._operator(), **(headers or {})},
            timeout=TIMEOUT_SECONDS,
        )
        if not answer.ok or answer.is_redirect:
            raise ApiError(what_went_wrong(answer), answer.status_code)
        etag = answer.headers.get("ETag", "").strip('"')
        return Answer(json_of(answer), int(etag) if etag.isdigit() else None)

    def _operator(self) -> dict[str, str]:
        token = (operator_token() or "").strip()
        if token:
            if not _TOKEN.fullmatch(token):
                raise click.UsageError("BRIDGE_OPERATOR_TOKEN has characters that no token has")
            return {"Authorization": f"Bearer {token}"}
        if is_local(self.base_url):
            return {"X-Operator": _NOT_IN_NAMES.sub("-", _user())[:100]}
        raise click.UsageError(
            "BRIDGE_OPERATOR_CREDENTIALS is missing: the file that `gcloud auth application-default login` "
            "has written (docs/operators.md), or BRIDGE_OPERATOR_TOKEN with an ID token"
        )


def _user() -> str:
    """Return the name of the user; a container's may have only a number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"


def what_went_wrong(answer: requests.Response) -> str:
    """Return what was answered in words: a problem (RFC 9457) with each field's mistake, an OAuth error."""
    try:
        problem = answer.json()
        if "error" in problem:
            said = problem.get("error_description") or "refused"
            return f"{said} ({answer.status_code} {problem['error']})"
        lines = [f"{problem['detail']} ({answer.status_code} {problem['type'].rpartition('/')[2]})"]
        lines += [f"  {error['pointer'] or '/'} {error['detail']}" for error in problem.get("errors", [])]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{answer.url} answered {answer.status_code}"
    return "\n".join(lines)
