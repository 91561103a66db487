"""Who runs this process, in events about what an operator did."""

import getpass
import os

import pytest

from ledger.runtime.operator_name import operator_name


@pytest.mark.parametrize("error", [KeyError("uid not found"), OSError("No username set")])
def test_a_user_without_a_name_as_in_a_container_is_named_by_its_number(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", fail)
    assert operator_name() == f"uid {os.getuid()}"
