"""The currencies of ISO 4217 and their decimals, for ever: what was once accepted has to stay readable.

The published list changes: a currency that is withdrawn is gone from it (HRK in 2023, BGN in 2026), while its
payments are still read, refunded and reported. So the list is kept here. An entry is never removed, and the
decimals of one never change: stored amounts are in its minor units. `tests/unit/test_currencies.py` compares
it with the list in force, as the package iso4217 has it, and fails when that has moved on:

- a new currency goes into `DECIMALS` one release before it is accepted, so that the release before can read
  it when a rollout goes back;
- a withdrawn one goes into `WITHDRAWN`: no new payment is made in it;
- other decimals for the same code need a decision on what is stored.
"""

from collections.abc import Mapping
from types import MappingProxyType

_BY_DECIMALS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF BYR",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE "
        "CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD "
        "HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK "
        "MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD "
        "RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH "
        "USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG "
        "ANG BGN CUC EEK HRK LTL LVL MRO SLL STD VEF ZMK ZWL"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
# Decimals of each code's minor unit.
DECIMALS: Mapping[str, int] = MappingProxyType(
    {code: decimals for decimals, codes in _BY_DECIMALS.items() for code in codes.split()}
)
# No longer in the list: their payments are read, captured, reversed and refunded; new ones are refused.
WITHDRAWN = frozenset(
    ["ANG", "BGN", "BYR", "CUC", "EEK", "HRK", "LTL", "LVL", "MRO", "SLL", "STD", "VEF", "ZMK", "ZWL"]
)
