"""IBANs (ISO 13616), by the structures and national checks of python-stdnum, its own way round them left out.

python-stdnum looks its tables up anew for every number: that was the costliest part of judging a payment.
"""

import re
from functools import cache
from typing import Any

from stdnum import numdb
from stdnum.exceptions import ValidationError as StdnumError
from stdnum.util import get_cc_module

_FIELD = re.compile(r"([1-9][0-9]*)!([nac])")
_CLASSES = {"n": "[0-9]", "a": "[A-Z]", "c": "[A-Z0-9]"}
_AS_NUMBERS = {ord(letter): str(number) for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10)}
_MODULUS = 97


def is_iban(value: str) -> bool:
    """Tell whether country, length, structure and check digits are right, the country's own ones too.

    `value`: two capital letters, two digits, then capital letters and digits.
    """
    structure, national = _rules(value[:2])
    if structure is None or not structure.fullmatch(value, 4):
        return False
    if int((value[4:] + value[:4]).translate(_AS_NUMBERS)) % _MODULUS != 1:
        return False
    if national is None:
        return True
    try:
        national.validate(value)
    except StdnumError:
        return False
    return True


@cache
def _rules(country: str) -> tuple[re.Pattern[str] | None, Any]:
    """Return what follows the first four characters, None for no such country, and its national check."""
    properties = numdb.get("iban").info(f"{country}00")[0][1]
    if "bban" not in properties:
        return None, None
    pattern = _FIELD.sub(lambda field: f"{_CLASSES[field[2]]}{{{field[1]}}}", properties["bban"])
    return re.compile(pattern), get_cc_module(country.lower(), "iban")
