"""Conversions that die: whatever ends them, no model directory appears that is not whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from intact import LLM, quantize

pytestmark = pytest.mark.skipif(os.name != "posix", reason="uses signals and resource limits")

# Stops for the test to send a signal after the second tensor, then converts on.
PAUSED = """
import contextlib, sys
import intact.conversion

@contextlib.contextmanager
def progress_bar(*_):
    def report(done, total, tensor):
        if done == 2:
            print("ready", flush=True)
            sys.stdin.readline()
    yield report

intact.conversion.progress_bar = progress_bar
intact.quantize(sys.argv[1], sys.argv[2])
"""
# Files may not grow beyond a limit, as on a full disk.
SMALL_DISK = """
import resource, signal, sys
import intact

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    intact.quantize(sys.argv[1], sys.argv[2], overwrite=True, progress=False)
except intact.ModelError as error:
    print(error)
else:
    print("done")
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=environment, text=True, **pipes)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_killed(checkpoint: Path, tmp_path: Path, llm: LLM, name: str) -> None:
    process = start(PAUSED, checkpoint, tmp_path / "model")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[name])
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert list(tmp_path.iterdir()) == []
    assert quantize(checkpoint, tmp_path / "model", progress=False)["digest"] == llm.digest


@pytest.mark.parametrize("existing", [False, True], ids=["new", "overwrite"])
def test_full_disk(checkpoint: Path, model: Path, tmp_path: Path, llm: LLM, existing: bool) -> None:
    target = tmp_path / "model"
    if existing:
        quantize(checkpoint, target, profile="fast", progress=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    largest = max(file.stat().st_size for file in model.iterdir())
    for limit in (0, 4096, largest - 1):
        out, err = start(SMALL_DISK, checkpoint, target, limit).communicate(timeout=60)
        assert "cannot write" in out, err
        assert "model" in out
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["model"] * existing
    out, err = start(SMALL_DISK, checkpoint, target, largest).communicate(timeout=60)
    assert (out, err) == ("done\n", "")
    assert LLM(target).digest == llm.digest
