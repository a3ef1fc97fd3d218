"""The table of families in the docs is the one that the tests follow."""

from __future__ import annotations

from edgekit.arch import known_model_types
from tests import families, tiny


def test_the_page_has_the_table_of_now() -> None:
    text = families.PAGE.read_text()
    assert families.page(text) == text


def test_every_family_has_a_tiny_model() -> None:
    assert {families.model_type(name) for name in [*tiny.MAKERS, "openelm"]} == set(known_model_types())
