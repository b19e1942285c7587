"""A running stack as others see it: what `stack.json` says (docs/api.md)."""

import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a demo partner is to the bridge: its id and its OAuth2 client."""

    partner_id: str
    client_id: str
    client_secret: str


@dataclass(frozen=True, slots=True)
class RunningStack:
    """Where everything is. `database_url` is SQLAlchemy's form and logs in as the owner."""

    api: str
    database_url: str
    sap_mock: str
    receiver: str
    state_folder: Path
    logs_folder: Path
    partners: tuple[Credentials, ...]

    @classmethod
    def read(cls, stack_file: Path) -> "RunningStack":
        """Read the file; OSError when no stack is running."""
        document = json.loads(stack_file.read_bytes())
        url = make_url(document["database_url"]).set(drivername="postgresql+pg8000")
        return cls(
            api=document["api"],
            database_url=url.render_as_string(hide_password=False),
            sap_mock=document["sap_mock"],
            receiver=document["receiver"],
            state_folder=stack_file.parent,
            logs_folder=Path(document["logs"]),
            partners=tuple(
                Credentials(
                    document[name]["id"], document[name]["client_id"], document[name]["client_secret"]
                )
                for name in ("partner", "second_partner")
            ),
        )
