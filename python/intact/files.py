"""Writing small files: complete or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def check_target(path: str | os.PathLike[str]) -> Path:
    """A path to which a file can be written.

    Raises:
        OSError: Its directory does not exist, or it is something else than a file.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target}: there is no such directory")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target}: is no file, so it is not replaced; choose another path")
    return target


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file; one that exists is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    target = check_target(path)
    partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(partial, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
