"""A person's Google ID token, from the file that gcloud's sign-in has written."""

from google.auth import exceptions
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials

from bridge.errors import SettingsError
from bridge.gcp.http import TOKEN_SECONDS
from bridge.web.bounded_session import bounded_session


def id_token_of(path: str) -> str:
    """Have a token issued for whoever has signed in: good for an hour, its audience is the OAuth client.

    `path`: credentials of the type `authorized_user` (`gcloud auth application-default login`). SettingsError
    for a file that is none, a sign-in that has ended, or one without the scope `openid`.
    """
    try:
        credentials = Credentials.from_authorized_user_file(path)  # type: ignore[no-untyped-call]
        credentials.refresh(Request(bounded_session(TOKEN_SECONDS)))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path}: not a file of credentials") from error
    except exceptions.GoogleAuthError as error:
        raise SettingsError(f"{path}: sign in again ({error})") from error
    if not credentials.id_token:
        raise SettingsError(f"{path}: sign in again with the scope `openid`")
    return str(credentials.id_token)
