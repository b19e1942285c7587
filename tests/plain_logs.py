"""What services log while they run in the tests' own process."""

import structlog


def log_plainly() -> None:
    """Write tracebacks as Python does: in colours, as is structlog's default, one takes seconds."""
    structlog.reset_defaults()
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain])
