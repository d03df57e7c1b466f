"""Where a model runs: the CPU or a GPU adapter. It changes no bit, and an adapter that changed one is not used."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from intact.errors import DeviceError, DeviceWarning

if TYPE_CHECKING:
    from intact._native import _Adapter


def adapter(device: str) -> str | None:
    """The name of the adapter that `device` asks for, which passed the self-test; None for the CPU.

    "auto" is the best adapter unless it is software, or the CPU, of which a `DeviceWarning` gives the reason.

    Raises:
        DeviceError: There is no such adapter, or it fails the self-test.
    """
    if not isinstance(device, str):
        raise DeviceError(f"device: {device!r:.80} is not a text such as 'cpu', 'gpu', 'auto' or 'vulkan'")
    if device == "cpu":
        return None
    if device == "auto":
        return _automatic()
    from intact._native import choose_adapter

    chosen = choose_adapter("" if device == "gpu" else device)
    check(chosen)
    return chosen["name"]


def _automatic() -> str | None:
    from intact._native import choose_adapter

    try:
        best = choose_adapter("")
        if not best["software"]:
            check(best)
            return best["name"]
        reason = f"{best['name']} is software, which is slower"
    except DeviceError as error:
        reason = str(error)
    fall_back(reason)
    return None


def fall_back(reason: str) -> None:
    """Says that the CPU is used where "auto" could have been a GPU."""
    warnings.warn(f"device='auto' is the CPU: {reason}", DeviceWarning, stacklevel=4)


def check(entry: _Adapter) -> int | None:
    """Runs the self-test on an adapter, unless its result is known; returns how many programs were equal, if it ran.

    Raises:
        DeviceError: One of them differs; the message names it.
    """
    from intact._native import self_test

    passed = _passed()
    if entry["identity"] in passed:
        return None
    count = self_test(entry["name"])
    _remember([*passed, entry["identity"]])
    return count


def problem(entry: _Adapter) -> str | None:
    """What is wrong with an adapter; None for one that passes the self-test."""
    try:
        check(entry)
    except DeviceError as error:
        return str(error)
    return None


def _file() -> Path | None:
    """The file of adapters that have passed; None where there is no place for it."""
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = str(home / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and Path(base).is_absolute() else home / ".cache") / "intact" / "adapters.json"


_MOST_BYTES = 1 << 20


def _passed() -> list[str]:
    """Identities of the adapters that have passed; a file that cannot be read holds none."""
    path = _file()
    try:
        if path is None or path.stat().st_size > _MOST_BYTES:
            return []
        names = json.loads(path.read_text("utf-8"))["passed"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _remember(identities: list[str]) -> None:
    from intact.files import write

    path = _file()
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, json.dumps({"passed": identities[-100:]}, indent=1).encode())
    except OSError:
        pass  # the test runs again next time
