"""The faults that `python -m tests.faults.planted` plants can still be planted."""

from __future__ import annotations

import pytest

from tests.faults.planted import FAULTS, ROOT, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_has_its_place(fault: Fault) -> None:
    assert (ROOT / fault.path).read_text("utf-8").count(fault.right) == 1
    assert fault.wrong != fault.right
