"""Sessions that speak HTTP to Google under the process's own account, each request bounded as a whole."""

import google.auth
from google.auth.transport.requests import AuthorizedSession, Request
from urllib3.util.retry import Retry

from bridge.web.bounded_session import bound, bounded_session

# One answer of the metadata server, which is on the same machine, or of Google's token endpoint.
TOKEN_SECONDS = 10.0


def google_session(scope: str, total_seconds: float, *, retry: Retry | None = None) -> AuthorizedSession:
    """Return a session that shows an access token for `scope`; GoogleAuthError if there is no account.

    A request may wait for a new token first, which is bounded too.
    """
    tokens = Request(bounded_session(TOKEN_SECONDS))
    credentials, _ = google.auth.default(scopes=[scope], request=tokens)
    session = AuthorizedSession(credentials, auth_request=tokens)  # type: ignore[no-untyped-call]
    bound(session, total_seconds, retry=retry)
    return session
