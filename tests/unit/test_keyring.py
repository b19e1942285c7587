import pytest

from bridge.errors import PermanentError
from bridge.keyring import KeyRing

pytestmark = pytest.mark.unit

OLD, NEW = b"o" * 32, b"n" * 32
PLACE = {"table": "payments", "column": "encrypted_parties", "row": "pay_1"}


def test_a_value_reads_back_where_it_stands_and_nowhere_else():
    ring = KeyRing("k1", {"k1": OLD})
    value = ring.encrypt(b"Muster GmbH", **PLACE)
    assert b"Muster" not in value.encode()
    assert ring.decrypt(value, **PLACE) == b"Muster GmbH"
    for part, other in (("table", "operations"), ("column", "x"), ("row", "pay_2")):
        with pytest.raises(PermanentError):
            ring.decrypt(value, **{**PLACE, part: other})


def test_after_a_rotation_old_values_are_still_read_and_new_ones_use_the_new_key():
    value = KeyRing("k1", {"k1": OLD}).encrypt(b"text", **PLACE)
    rotated = KeyRing("k2", {"k1": OLD, "k2": NEW})
    assert rotated.decrypt(value, **PLACE) == b"text"
    assert rotated.encrypt(b"text", **PLACE).startswith("k2:")
    with pytest.raises(PermanentError):
        KeyRing("k2", {"k2": NEW}).decrypt(value, **PLACE)
