"""What was made fast says the same as the library that says it slowly."""

import string

import pytest
import rfc8785
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import VerifyMismatchError
from hypothesis import example, given
from hypothesis import strategies as st
from stdnum import iban, numdb
from stdnum.iso7064 import mod_97_10

from gateway.client_secrets import SecretVerifier
from gateway.iban import is_iban
from gateway.idempotency import canonical_json

pytestmark = pytest.mark.unit

REAL = [
    "DE89370400440532013000",
    "FR1420041010050500013M02606",
    "ES9121000418450200051332",
    "BE68539007547034",
    "NL91ABNA0417164300",
    "GB29NWBK60161331926819",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
    "CH9300762011623852957",
    "IT60X0542811101000000123456",
]
COUNTRIES = [code for _, code, _, _, _ in numdb.get("iban").prefixes]
FORM = st.from_regex(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", fullmatch=True)


@st.composite
def nearly_real(draw):
    """A real number with one character changed, or with its check digits made right again after that."""
    number = list(draw(st.sampled_from(REAL)))
    place = draw(st.integers(0, len(number) - 1))
    is_letter = place < 2
    is_digit = place in (2, 3)
    alphabet = string.ascii_uppercase if is_letter else string.digits if is_digit else string.digits + "AKZ"
    number[place] = draw(st.sampled_from(alphabet))
    changed = "".join(number)
    if draw(st.booleans()):
        digits = mod_97_10.calc_check_digits(changed[4:] + changed[:2])
        changed = f"{changed[:2]}{digits}{changed[4:]}"
    return changed


@pytest.mark.parametrize("number", REAL)
def test_an_iban_is_one(number):
    assert is_iban(number)


def test_a_bank_that_the_library_has_never_heard_of_is_none_of_its_business():
    """The registry's own Belgian example was refused: the library's list of banks did not have it."""
    assert not iban.is_valid("BE68539007547034")
    assert is_iban("BE68539007547034")


@given(st.one_of(FORM, nearly_real()))
@example("XX00ABCDEFGHIJK")
@example("DE00370400440532013000")
def test_every_number_is_judged_as_by_the_library(number):
    expected = iban.is_valid(number, check_country=False) and number[2:4] not in ("00", "01", "99")
    assert is_iban(number) == expected


@pytest.mark.parametrize("number", ["MD996JK24D0RFGDJJPJQHKWN", "GB00HLFX11016111455365"])
def test_check_digits_that_no_calculation_gives_are_refused(number):
    """00, 01 and 99 leave the remainder of 97, 98 and 02: the library takes them, no bank issues them."""
    assert iban.is_valid(number, check_country=False)
    assert not is_iban(number)


@pytest.mark.parametrize("country", sorted({code[:2] for code in COUNTRIES}))
def test_every_countrys_structure_is_known(country):
    """All zeros with right check digits: the library and we agree, country by country."""
    for length in range(11, 31):
        body = "0" * length
        number = f"{country}{mod_97_10.calc_check_digits(body + country)}{body}"
        assert is_iban(number) == iban.is_valid(number, check_country=False), number


def test_nobodys_hash_costs_what_a_real_one_costs_and_fits_no_secret():
    hasher = PasswordHasher()
    nobodys = SecretVerifier()._nobodys_hash
    assert extract_parameters(nobodys) == extract_parameters(hasher.hash("secret"))
    with pytest.raises(VerifyMismatchError):
        hasher.verify(nobodys, "secret")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.text()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=6))
@example({"": {"\U0001f600": "b", "\ufffd": "a"}, "a": '\x7f\x1f\u2028 \\ " \b\f\n\r\t'})
@example({"a": 1.0, "b": [1e21, -0.0], "c": "b:1"})
def test_canonical_json_is_that_of_rfc_8785(document):
    assert canonical_json(document) == rfc8785.dumps(document)
