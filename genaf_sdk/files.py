"""Writing that leaves nothing half done, follows no link and widens no mode."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from genaf_sdk.errors import OutputError

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTIAL = re.compile(r"\..+\.(\d+|[0-9a-f]{16})\.partial")
"""Names that ``replacing`` makes, and has made."""
ABANDONED = 24 * 3600.0
"""Seconds after which a temporary file is a killed process's where locks cannot tell."""
NO_FLUSH = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)  # Windows has none
FLUSHABLE = os.O_RDWR if os.name == "nt" else os.O_RDONLY  # Windows flushes only what is open for writing


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Context: what the system or the safetensors library says about writing ``path`` becomes an ``OutputError``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{path} cannot be written: {reason}.", remedy="check permissions and free space") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path``; it takes the final name only if the block succeeds.

    The file is there when the block begins: empty, made exclusively under a name that nobody can guess, and locked as
    long as the block runs, so that those of killed processes can be told from it and are removed. A file that is
    replaced hands on its mode; a new one gets what the umask leaves.

    Raises:
        OutputError: The file cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        descriptor, temporary, mode = _make_beside(path)
        try:
            yield temporary
            _settle(temporary, mode)
            temporary.replace(path)
            flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
            if descriptor is not None:
                os.close(descriptor)


def flush(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk; where folders cannot be flushed, they are not.

    Raises:
        OSError: The system could not write it.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, FLUSHABLE)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FLUSH or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON; not-a-number and infinity are refused, as JSON has neither."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        # File names that are no UTF-8 come as lone surrogates, which JSON can say only as escapes.
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OutputError: The file is missing or is no JSON, or an object in it has two values of one name: readers differ in
            which they take.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(f"{path} cannot be read as JSON: {error}.") from error


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON whose names are all different; for others a ``ValueError``."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has two values of one name")
    return found


def require_writable(folder: Path) -> Path:
    """Create ``folder`` and find out whether files can be written there, before hours of work depend on it.

    Raises:
        OutputError: The folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"genaf")
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror or error
        shown = str(folder if folder.name else folder.resolve())
        raise OutputError(
            f"The output folder {shown!r} cannot be written: {reason}.",
            expected="a folder that this process may create files in",
            remedy="choose another place, such as another output_dir",
        ) from error
    return folder


@contextmanager
def trial_folder(folder: Path) -> Iterator[Path]:
    """Context: a folder that files can be written into; afterwards, what was made of it and is empty is gone.

    Raises:
        OutputError: The folder cannot be created or written to.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield require_writable(folder)
    finally:
        with contextlib.suppress(OSError):  # somebody else has put something there
            for each in missing:
                each.rmdir()


def require_new(path: Path, *, overwrite: bool) -> Path:
    """Return where a file is to be written, unless one is there and nobody said that it may be replaced.

    Raises:
        OutputError: One is there.
    """
    if not overwrite and (path.exists() or path.is_symlink()):
        raise OutputError(
            f"{path} exists already.", expected="a new file", remedy="name another one, or add --overwrite"
        )
    return path


def user_path(text: str | Path) -> Path:
    """Return a path with ``~`` and ``~USER`` replaced; as the shell does, ``~`` before an unknown user stays."""
    path = Path(text)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path


def _make_beside(path: Path) -> tuple[int | None, Path, int]:
    """Make a temporary file for ``path``; return what holds its lock, its path, and the mode that it ends with."""
    try:
        before = os.lstat(path)
        kept = stat.S_IMODE(before.st_mode) & 0o777 if stat.S_ISREG(before.st_mode) else None
    except FileNotFoundError:
        kept = None
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | NO_FOLLOW
        # The system applies the umask here; asking for it would set it for all threads for a moment.
        descriptor = os.open(temporary, flags, 0o666 if kept is None else 0o600)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode) if kept is None else kept
        if sys.platform == "win32":  # which renames no open file
            os.close(descriptor)
            return None, temporary, mode
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if is_at(descriptor, temporary):
            return descriptor, temporary, mode
        os.close(descriptor)  # another process took it for abandoned before it was locked


def _settle(temporary: Path, mode: int) -> None:
    """Flush what was written and give it its mode: some writers leave files that only their owner can read."""
    descriptor = os.open(temporary, FLUSHABLE | NO_FOLLOW)
    try:
        os.fsync(descriptor)
        if sys.platform != "win32":
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of ``path``: their temporary files, which nobody holds any more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with contextlib.suppress(OSError):  # another process was quicker, or it is not ours
            if PARTIAL.fullmatch(left.name):
                _remove_unless_held(left)


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | NO_FOLLOW)
    try:
        about = os.fstat(descriptor)
        if sys.platform == "win32":
            held = time.time() - about.st_mtime < ABANDONED
        else:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = about.st_uid != os.geteuid()
            except BlockingIOError:
                held = True
            except OSError:  # no locks here
                held = time.time() - about.st_mtime < ABANDONED
        if not held and stat.S_ISREG(about.st_mode):
            path.unlink()  # while it is locked, so that its maker notices
    finally:
        os.close(descriptor)


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether ``path`` still names the file that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
