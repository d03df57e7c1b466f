"""What it takes to the first token: benches/start_up.py, and the imports that are left for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benches.end_to_end import Engine
from benches.start_up import COLUMNS, child, size, table
from intact import hub


def test_generating_imports_neither_numpy_nor_jinja() -> None:
    program = """
import sys
from intact import LLM, SamplingParams
LLM("tiny").generate("Once", SamplingParams(temperature=0, max_tokens=1))
print(*(name for name in ("numpy", "jinja2", "logging") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "\n"


def test_what_is_imported_late_is_there() -> None:
    program = "import intact; from intact import *; print(calibrate.__module__, intact.calibrate is calibrate)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "intact.calibration True\n"


def test_a_run_has_every_figure(tmp_path: Path) -> None:
    (tmp_path / "intact.json").write_bytes(bytes(3 << 20))
    (tmp_path / "planes").write_bytes(bytes(1 << 20))
    assert size(Engine(str(tmp_path))) == 4
    figures = dict(zip(COLUMNS, child(Engine(str(hub.local("tiny"))), 1), strict=True))
    assert 0 < figures["load, ms"] + figures["first token, ms"] == figures["load + first token, ms"]
    assert 0 < figures["imported, MiB"] <= figures["peak, MiB"]


def test_table_has_medians() -> None:
    runs = [[1.0, 2.0, 3.0, 5.0, 10.0, 20.0], [2.0, 3.0, 4.0, 7.0, 11.0, 21.0], [9.0, 9.0, 9.0, 18.0, 12.0, 22.0]]
    assert table({"Intact m": (4.0, runs)}).splitlines()[2] == "| Intact m | 2 | 3 | 4 | 7 | 11 | 21 | 4 |"
