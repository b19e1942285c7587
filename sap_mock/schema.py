"""The WSDL beside this file, as the order and the types that requests are read by."""

import re
import threading
from collections.abc import Mapping
from importlib import resources

from lxml import etree

XSD = "http://www.w3.org/2001/XMLSchema"
SFIN = "http://sap.com/xi/SAPSCORE/SFIN"
SOAP_ADDRESS = "{http://schemas.xmlsoap.org/wsdl/soap/}address"
REQUEST = "JournalEntryBulkCreateRequest"
_TEXT_TYPE = re.compile(r"Text([0-9]+)")


def safe_parser() -> etree.XMLParser:
    """No entities, no DTD, no network, no huge trees; comments and processing instructions are dropped.

    Made anew for each document: lxml parsers serialise the threads that share them.
    """
    return etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def wsdl(address: str) -> bytes:
    """Return the WSDL with `address` as the URL to post to."""
    definitions = etree.fromstring(_wsdl_text(), safe_parser())
    for location in definitions.iter(SOAP_ADDRESS):
        location.set("location", address)
    return etree.tostring(definitions, xml_declaration=True, encoding="utf-8")


class InvalidRequestError(ValueError):
    """What is in order has the wrong type or length, or lacks what no message goes without."""


class RequestSchema:
    """Reads requests as SAP does: what stands out of order or is unknown is passed over without a word."""

    def __init__(self) -> None:
        definitions = etree.fromstring(_wsdl_text(), safe_parser())
        schema = definitions.find(f".//{{{XSD}}}schema")
        if schema is None:
            raise InvalidRequestError("the WSDL has no schema")
        self._sequences = _sequences(schema)
        self._root_type = _elements(schema)[REQUEST]
        self._validator = etree.XMLSchema(schema)
        self._lock = threading.Lock()  # the validator keeps its errors in itself

    def tidy(self, request: etree._Element) -> None:
        """Take out of the request, in place, all that SAP would pass over; then check what is left.

        InvalidRequestError names the first element of a wrong type or length.
        """
        self._drop_misplaced(request, self._root_type)
        try:
            with self._lock:
                self._validator.assertValid(request)
        except etree.DocumentInvalid as error:
            raise InvalidRequestError(str(error)) from error
        self._check_lengths(request, self._root_type)

    def _check_lengths(self, element: etree._Element, type_name: str) -> None:
        """ABAP's CHAR fields count UTF-16 code units; XML Schema counts characters."""
        length = _TEXT_TYPE.fullmatch(type_name)
        units = len((element.text or "").encode("utf-16-le")) // 2
        if length is not None and units > int(length[1]):
            raise InvalidRequestError(
                f"Element '{element.tag}': {units} UTF-16 code units in CHAR{length[1]}"
            )
        sequence = self._sequences.get(type_name, {})
        for child in element:
            self._check_lengths(child, sequence[str(child.tag)])

    def _drop_misplaced(self, element: etree._Element, type_name: str) -> None:
        sequence = self._sequences.get(type_name)
        if sequence is None:
            return
        order = list(sequence)
        reached = 0
        for child in list(element):
            name = str(child.tag)
            # children are unqualified: a qualified one has a name that no sequence knows
            position = order.index(name) if name in sequence else -1
            if position < reached or _is_empty(child):
                element.remove(child)
                continue
            reached = position
            self._drop_misplaced(child, sequence[name])


def _is_empty(element: etree._Element) -> bool:
    """SAP reads an empty element as an initial value."""
    return len(element) == 0 and not (element.text or "").strip()


def _wsdl_text() -> bytes:
    return resources.files("sap_mock").joinpath("journal_entry.wsdl").read_bytes()


def _sequences(schema: etree._Element) -> Mapping[str, Mapping[str, str]]:
    """Return per complex type its elements in order, each with its type's name."""
    return {
        str(complex_type.get("name")): _elements(sequence)
        for complex_type in schema.iterfind(f"{{{XSD}}}complexType")
        for sequence in complex_type.iterfind(f"{{{XSD}}}sequence")
    }


def _elements(parent: etree._Element) -> Mapping[str, str]:
    return {
        str(element.get("name")): str(element.get("type")).split(":")[-1]
        for element in parent.iterfind(f"{{{XSD}}}element")
    }
