"""What benches/sizes.py makes of the figures of `intact eval`, and what it tells llama.cpp."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from benches import sizes
from benches.sizes import Row, gguf_name, importance, record, rival, rows_of, table
from intact import calibrate

MIB = 1 << 20


def evaluated(name: str, mebibytes: float, kld: float, error: float | None, digest: str | None) -> dict[str, Any]:
    figures = {"kld": {"value": kld, "error": error}, "top1_agreement": {"value": 90.25, "error": None}}
    return {"model": name, "model_digest": digest, "bytes": int(mebibytes * MIB), **figures}


REPORT = {
    "reference": "somewhere/source.gguf",
    "windows": 2,
    "predictions": 62,
    "reference_perplexity": {"value": 9.5, "error": None},
    "rows": [
        evaluated("work/90MiB", 90, 0.001, 0.0001, "d1"),
        evaluated("work/64MiB", 64, 0.02, 0.002, "d2"),
        evaluated("work/Q4_0.gguf", 80, 0.1, 0.01, None),
        evaluated("work/Q2_K.gguf", 79, 0.4, None, None),
    ],
}


def test_each_peer_meets_the_best_of_ours_that_is_small_enough() -> None:
    rows = rows_of(REPORT)
    assert [row.name for row in rows] == ["64MiB", "90MiB", "Q2_K", "Q4_0"]
    assert rival(rows[3], rows) == rows[0] and rival(rows[2], rows) is None
    assert table(rows).splitlines()[2:] == [
        "| Intact 64MiB | 64.0 | 0.02 ± 0.002 | 90.2 |  |",
        "| Intact 90MiB | 90.0 | 0.001 ± 0.0001 | 90.2 |  |",
        "| llama.cpp Q2_K | 79.0 | 0.4 | 90.2 | – |",
        "| llama.cpp Q4_0 | 80.0 | 0.1 ± 0.01 | 90.2 | 64.0 MiB, 0.20 of its KLD |",
    ]


def test_record_holds_every_figure_and_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "RECORD", tmp_path / "record")
    monkeypatch.setattr(sizes, "commit", lambda: "0123abcd+")
    record("name", REPORT)
    text = (tmp_path / "record" / "name.json").read_text("utf-8")
    written = json.loads(text)
    assert (written["source"], written["commit"], written["windows"]) == ("source.gguf", "0123abcd+", 2)
    assert [Row(*row) for row in rows_of(written)] == rows_of(REPORT)
    assert "somewhere" not in text and "work/" not in text
    note = (tmp_path / "record" / "name.md").read_text("utf-8")
    assert table(rows_of(REPORT)) in note and "0123abcd+" in note
    plot = (tmp_path / "record" / "name.svg").read_text("utf-8")
    assert all(f">{row.name}<" in plot for row in rows_of(REPORT))


def test_names_and_importance_for_llama(gguf: Path, tmp_path: Path) -> None:
    assert gguf_name("model.layers.12.self_attn.o_proj") == "blk.12.attn_output"
    assert (gguf_name("lm_head"), gguf_name("model.norm")) == ("output", None)
    calibrate(gguf, None, tmp_path / "c", weights="none", windows=1, window=24, progress=False)
    weights = importance(str(tmp_path / "c"))
    assert {"token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"} <= set(weights)
    assert all(sum(values) / len(values) == pytest.approx(1) for values in weights.values())


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(sizes, "run", lambda command, quiet=False: ran.append(command))
    (tmp_path / "9MiB").mkdir()
    options = argparse.Namespace(work=tmp_path, sizes=[9, 8], requantized=[7], imatrix="c", source="s")
    assert [path.name for path in sizes.make_models(options)] == ["9MiB", "8MiB", "7MiB-requantized"]
    assert [command[-1] for command in ran] == ["c", "--requantize"] and "8MiB" in ran[0]


def test_what_has_figures_is_not_evaluated_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], quiet: bool = False) -> str:
        ran.append(command)
        names = [name for name in command if name.startswith(str(tmp_path))]
        rows = [evaluated(name, 1, 0.5, None, None if name.endswith("gguf") else "d") for name in names]
        return json.dumps({**REPORT, "rows": rows})

    monkeypatch.setattr(sizes, "run", run)
    options = argparse.Namespace(work=tmp_path, source="s", windows=2)
    models, peers = [tmp_path / "9MiB"], [tmp_path / "Q4_0.gguf"]
    first = sizes.measure(options, models, [])
    assert sizes.measure(options, models, []) == first and len(ran) == 1
    both = sizes.measure(options, models, peers)
    assert len(ran) == 2 and [row.name for row in rows_of(both)] == ["9MiB", "Q4_0"]
    assert sizes.measure(options, models, peers) == both and len(ran) == 2
