"""Ids: version 7 for what is new, version 8 for what is imported."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger_core.event.ids import derived_id, format_uuid7


def test_version_7_is_the_example_of_the_rfc() -> None:
    # RFC 9562 appendix A.6; the bits that it gives to version and variant are zero here.
    random = bytes.fromhex("0cc318c4dc0c0c07398f")
    text = format_uuid7(unix_ms=0x017F22E279B0, random=random)
    assert text == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


@given(st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
def test_version_7_is_valid_and_begins_with_the_time(unix_ms: int, random: bytes) -> None:
    value = uuid.UUID(format_uuid7(unix_ms=unix_ms, random=random))
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert value.int >> 80 == unix_ms


@pytest.mark.parametrize("random", [b"", bytes(9), bytes(11)])
def test_version_7_wants_ten_random_bytes(random: bytes) -> None:
    with pytest.raises(ValueError, match="10 random bytes"):
        format_uuid7(unix_ms=0, random=random)


@pytest.mark.parametrize("unix_ms", [-1, 2**48])
def test_version_7_wants_a_time_of_48_bits(unix_ms: int) -> None:
    with pytest.raises(ValueError, match="48 bits"):
        format_uuid7(unix_ms=unix_ms, random=bytes(10))


@given(st.binary(max_size=40))
def test_a_derived_id_is_valid_and_always_the_same(canonical: bytes) -> None:
    value = uuid.UUID(derived_id("cloudtrail", canonical))
    assert (value.version, value.variant) == (8, uuid.RFC_4122)
    assert str(value) == derived_id("cloudtrail", canonical)


def test_a_derived_id_depends_on_the_source_and_on_every_byte() -> None:
    known = {
        derived_id(source, canonical)
        for source in ("a", "b", "a b")
        for canonical in (b"", b"{}", b"{} ", b"a\n{}")
    }
    assert len(known) == 12


def test_a_derived_id_stays_what_it_is_for_ever() -> None:
    # Ids of imported events are in ledgers: another derivation would import all of them again.
    assert derived_id("jsonl", b"{}") == "022be4b4-50ca-8577-adde-ec67212cc01f"


def test_a_source_with_a_line_end_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="one line"):
        derived_id("a\nb", b"")
