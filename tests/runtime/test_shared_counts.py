"""What processes count in memory that they share."""

import mmap

from hypothesis import given
from hypothesis import strategies as st

from ledger.runtime.shared_counts import ALONE, SharedCounts, memory_bytes

KEY = bytes(16)


def parts(processes: int) -> list[SharedCounts]:
    memory = mmap.mmap(-1, memory_bytes(processes))
    return [
        SharedCounts(memory, number=number, processes=processes, key=KEY)
        for number in range(processes)
    ]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from(["in_use", "spent"]),
            st.sampled_from([f"token {n}" for n in range(20)]),
            st.integers(0, 1 << 40),
        ),
        max_size=30,
    )
)
def test_each_process_sees_what_the_others_count(added) -> None:  # type: ignore[no-untyped-def] # tuples
    counted = parts(3)
    for number, kind, name, amount in added:
        counted[number].add(kind, name, amount)
    for number, own in enumerate(counted):
        for kind in ("in_use", "spent"):
            for name in {row[2] for row in added} | {"nobody"}:
                want = sum(
                    row[3]
                    for row in added
                    if row[0] != number and row[1] == kind and row[2] == name
                )
                assert own.of_others(kind, name) == want  # type: ignore[arg-type] # one of the two


def test_what_a_process_had_in_use_ends_with_it_and_what_it_spent_stays() -> None:
    first, second, third = parts(3)
    for each in (first, second):
        each.add("in_use", "acme", 5)
        each.add("spent", "acme", 7)
    third.forget_in_use(0)
    assert third.of_others("in_use", "acme") == 5
    assert third.of_others("spent", "acme") == 14
    assert first.of_others("in_use", "acme") == 5


def test_alone_there_are_no_others() -> None:
    ALONE.add("in_use", "acme", 5)
    assert ALONE.of_others("in_use", "acme") == 0
