"""What benches/end_to_end.py makes of the figures of its processes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from benches import end_to_end
from benches.end_to_end import Engine, Row, record, table

ROWS = [
    Row("llama.cpp a.gguf", 1, "pp8", [90.0, 100.0, 130.0]),
    Row("llama.cpp b.gguf", 1, "pp8", [50.0, 50.0, 50.0]),
    Row("Intact m", 1, "pp8", [240.0, 150.0, 180.0]),
    Row("Intact m", 1, "tg8 @ 64", [7.0]),
    Row("llama.cpp a.gguf", 2, "pp8", [160.0]),
    Row("Intact m", 2, "pp8", [200.0]),
]


def test_table_compares_medians_with_the_best_file_of_the_same_column() -> None:
    assert table(ROWS).splitlines() == [
        "| tokens/s | pp8, 1 thread | pp8, 2 threads | tg8 @ 64, 1 thread |",
        "| --- | --- | --- | --- |",
        "| llama.cpp a.gguf | 100.0 | 160.0 | – |",
        "| llama.cpp b.gguf | 50.0 | – | – |",
        "| Intact m | 180.0 (1.80) | 200.0 (1.25) | 7.0 |",
    ]


def test_an_engine_is_known_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "intact.json").touch()
    engines = [Engine(str(tmp_path / "model")), Engine(str(tmp_path / "model.gguf"))]
    assert [(engine.intact, engine.label) for engine in engines] == [
        (True, "Intact model"),
        (False, "llama.cpp model.gguf"),
    ]


def test_record_holds_every_figure_and_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "RECORD", tmp_path / "record")
    monkeypatch.setattr(end_to_end, "commit", lambda: "0123abcd+")
    record("name", ROWS, argparse.Namespace(rounds=3))
    report = json.loads((tmp_path / "record" / "name.json").read_text("utf-8"))
    assert [Row(**row) for row in report["rows"]] == ROWS
    assert (report["rounds"], report["commit"]) == (3, "0123abcd+")
    assert report["machine"]["cores"] >= 1
    text = (tmp_path / "record" / "name.md").read_text("utf-8")
    assert table(ROWS) in text
    for fact in ("0123abcd+", report["date"], report["machine"]["cpu"], "3 alternating rounds"):
        assert fact in text
