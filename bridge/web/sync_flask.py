"""Flask for views that are all plain functions."""

from collections.abc import Callable
from typing import Any

from flask import Flask


class SyncFlask(Flask):
    """Flask looks at every view and hook, at every request, whether it is a coroutine. None of ours is.

    With a dozen hooks that costs a request more than its log line.
    """

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """See Flask."""
        return func
