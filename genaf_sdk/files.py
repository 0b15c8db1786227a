"""Writing that leaves nothing half done: a temporary name in the same folder, then one rename."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genaf_sdk.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only if the block succeeds.

    Raises:
        OutputError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())  # some writers leave files that only their owner can read
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}.", remedy="check permissions and free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON; not-a-number and infinity are refused, as JSON has neither."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OutputError: The file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read as JSON: {error}.") from error


def require_writable(folder: Path) -> Path:
    """Create ``folder`` and prove that files can be written there, before hours of work depend on it.

    Raises:
        OutputError: The folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"genaf")
    except OSError as error:
        raise OutputError(
            f"The output folder {str(folder)!r} cannot be written: {error.strerror or error}.",
            expected="a folder that this process may create files in",
            remedy="choose another output_dir",
        ) from error
    return folder


def user_path(text: str | Path) -> Path:
    """Return a path with ``~`` and ``~USER`` replaced; as the shell does, ``~`` before an unknown user stays."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path
