"""The outbox has no foreign keys: what writes a row must have what it points at before it."""

import importlib
import pkgutil
import re

import pytest
from sqlalchemy import TextClause

import bridge.storage

pytestmark = pytest.mark.unit

# what a row may be taken from: tables, and what a statement has written itself
SOURCES = {"operations", "events", "operation", "event", "accepted"}


def statements():
    for module in pkgutil.iter_modules(bridge.storage.__path__, "bridge.storage."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, TextClause):
                yield f"{module.name}.{name}", value.text


def test_every_outbox_row_is_taken_from_what_it_points_at():
    written = [
        (name, re.search(r"\bSELECT\b.*?\bFROM (\w+)", insert, re.DOTALL))
        for name, text in statements()
        for insert in re.split(r"INSERT INTO outbox\b", text)[1:]
    ]
    assert len(written) >= 5
    assert [name for name, source in written if source is None or source[1] not in SOURCES] == []
