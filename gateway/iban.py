"""IBANs (ISO 13616), by the structures of python-stdnum, its own way round them left out.

python-stdnum looks its tables up anew for every number: that was the costliest part of judging a payment. Its
national checks are left out on purpose: some know only the banks of the day when the library was released.
"""

import re
from functools import cache

from stdnum import numdb

_FIELD = re.compile(r"([1-9][0-9]*)!([nac])")
_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}
_AS_NUMBERS = {ord(letter): str(number) for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10)}
_MODULUS = 97
# ISO 13616-1 calculates them as 98 minus a remainder of 0 to 96, so they are 02 to 98. These three leave the
# remainders of 97, 98 and 02, and would pass the check.
_NEVER_CHECK_DIGITS = frozenset({"00", "01", "99"})


def is_iban(value: str) -> bool:
    """Tell whether country, length, structure and check digits are right.

    `value`: two capital letters, two digits, then capital letters and digits.
    """
    structure = _structure(value[:2])
    if value[2:4] in _NEVER_CHECK_DIGITS or structure is None or not structure.fullmatch(value, 4):
        return False
    return int((value[4:] + value[:4]).translate(_AS_NUMBERS)) % _MODULUS == 1


@cache
def _structure(country: str) -> re.Pattern[str] | None:
    """Return what follows the first four characters; None for no such country."""
    properties = numdb.get("iban").info(f"{country}00")[0][1]
    if "bban" not in properties:
        return None
    return re.compile(_FIELD.sub(lambda field: f"{_CLASSES[field[2]]}{{{field[1]}}}", properties["bban"]))
