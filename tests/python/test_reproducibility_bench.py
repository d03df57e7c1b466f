"""What benches/reproducibility.py makes of the results of its processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benches.reproducibility import RUN_OPTIONS, Result, Text, cells, chunks, compare, outcome, plan, table, write


def text(tokens: list[int], logits: list[str]) -> Text:
    return Text(tokens=tokens, logits=logits, receipt="")


def result(greedy: list[Text], sampled: list[Text]) -> Result:
    return Result(greedy=greedy, sampled=sampled, engine={})


BASE = [text([1, 2, 3], ["a", "b", "c"]), text([4, 5, 6], ["d", "e", "f"])]


@pytest.mark.parametrize(
    ("found", "equal", "first"),
    [
        (BASE, 6, [None, None]),
        ([text([1, 9, 3], ["a", "x", "c"]), BASE[1]], 5, [1, None]),
        # Logits may differ where the choice does not.
        ([BASE[0], text([4, 5, 6], ["x", "e", "y"])], 4, [None, None]),
        ([text([9, 2, 9], ["x", "b", "y"]), text([4, 5, 9], ["d", "e", "y"])], 3, [0, 2]),
    ],
)
def test_compare(found: list[Text], equal: int, first: list[int | None]) -> None:
    assert compare(found, BASE) == {"steps": 6, "equal_steps": equal, "first_differing_token": first}


def test_fewer_prompts_are_compared_where_an_option_says_so() -> None:
    found = outcome(result(BASE[:1], BASE[:1]), result(BASE, BASE), {"prompts": 1})
    assert found["greedy"] == {"steps": 3, "equal_steps": 3, "first_differing_token": [None]}


@pytest.mark.parametrize("found", [BASE[:1], [text([1, 2], ["a", "b"]), BASE[1]]])
def test_a_run_that_stops_early_is_not_taken_for_equal(found: list[Text]) -> None:
    with pytest.raises(ValueError, match="zip"):
        outcome(result(found, found), result(BASE, BASE), {})


def test_cells() -> None:
    base = result(BASE, BASE)
    assert cells(None) == ["not a run option", "–", "–"]
    assert cells(outcome(base, base, {})) == ["equal", "equal", "equal"]
    changed = [text([1, 2, 9], ["a", "b", "x"]), text([4, 9, 6], ["d", "x", "f"])]
    assert cells(outcome(result(BASE, changed), base, {})) == [
        "10 of 12 equal",
        "equal",
        "2 of 2 differ, first after 1 tokens",
    ]


def test_table_has_a_line_for_every_row_and_a_cell_for_every_column() -> None:
    base = result(BASE, BASE)
    row: dict[str, Any] = {"option": "threads", "llama": outcome(base, base, {}), "intact": None}
    lines = table([row, row]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {8}


def test_write(tmp_path: Path) -> None:
    base = result(BASE, BASE)
    report: dict[str, Any] = {
        "machine": {"processor": "P"},
        "engines": {"intact": {"version": "V"}},
        "rows": [{"option": "threads", "llama": None, "intact": outcome(base, base, {})}],
    }
    write(tmp_path / "new" / "out", report)
    assert json.loads((tmp_path / "new" / "out.json").read_text("utf-8")) == report
    written = (tmp_path / "new" / "out.md").read_text("utf-8")
    assert written == table(report["rows"]) + "\n* processor P\n* engine intact, version V\n"


def test_plan() -> None:
    rows = plan("/peer", ["AVX2 only=/other"], ["reference", "avx2"])
    assert [row["name"] for row in rows[: len(RUN_OPTIONS)]] == [name for name, _, _ in RUN_OPTIONS]
    assert rows[0]["llama"] == ("/peer", {})
    assert rows[0]["intact"] == (sys.executable, {})
    assert (rows[-3]["llama"], rows[-3]["intact"]) == (("/other", {}), None)
    assert (rows[-2]["llama"], rows[-2]["intact"]) == (None, (sys.executable, {"cpu": "reference", "prompts": 2}))
    assert (rows[-1]["llama"], rows[-1]["intact"]) == (None, (sys.executable, {"cpu": "avx2"}))
    assert "2 prompts" in rows[-2]["name"]


@pytest.mark.parametrize(("count", "size"), [(0, 4), (3, 4), (8, 4), (9, 4)])
def test_chunks(count: int, size: int) -> None:
    parts = list(chunks(range(count), size))
    assert [i for part in parts for i in part] == list(range(count))
    assert all(len(part) == size for part in parts[:-1])
