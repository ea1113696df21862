"""Files on the disk: complete or absent, never half written; one sentence for a full disk; the cache folder; seals.

A process may be killed at any moment, and the next one must not read half a file. So everything is written under
another name first, and renamed when it is whole: renaming within a folder happens at once or not at all. Every file of
Manyfit gets its name in `put_in_place`, and nowhere else.

What a user is handed for good (a winner, an ensemble, an export) *lasts*: it is on the disk before it has its name.
What a search writes by the hundred does not wait for the disk. A power cut may leave an empty file of it, which is
found, since the project knows a checksum of each.

Loading a pickle can run any code, and some things have no other form. A file that holds one is therefore *sealed*: at
its end stands a keyed hash of what is before it (HMAC-SHA256), by a secret that lies in the user's own folder and that
nobody else can read. A seal that is right proves that this user wrote the file on this machine; see `unsealed`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

from manyfit.core.errors import ProjectError, explain

PARTIAL = "partial-"  # how the names of files begin that are being written
EARLIER = ".earlier"  # how they end of what a newer file has replaced that the store does not know of yet

_CHECKSUM = "checksum"
CALL_SEARCH = "call search again: what was finished is kept."
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

#: Values of `MANYFIT_CACHE_DIR` that switch caches off.
_OFF = ("", "0", "off", "none")


@contextlib.contextmanager
def replaced(path: Path, *, is_shared: bool = False, lasts: bool = False, makes_parents: bool = True) -> Iterator[Path]:
    """Yields another name to write under, and gives the file its own name once it is complete.

    Args:
        path: the file's name; its folder is made.
        is_shared: whether several processes may write the same file at once, as in a cache.
        lasts: whether it is to survive a power cut.
        makes_parents: whether the folders above its own are made, too.

    Raises:
        OSError: as the system says it. See `written_whole` for files of a project.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "made" / "note.txt"
    >>> with replaced(path) as partial:
    ...     _ = partial.write_text("whole")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('whole', ['note.txt'])
    """
    # The ending stays: `numpy.savez` would add its own. A project has one writing process, so the name is the same each
    # time, and what a killed process left is written over instead of piling up.
    if not path.name:  # of "" or "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not (path.is_file() or path.is_dir()):  # an administrator's renaming would replace the device
        raise OSError(errno.EINVAL, "a device or a pipe and no file", str(path))
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}" if is_shared else f"{PARTIAL}{path.name}")
    path.parent.mkdir(parents=makes_parents, exist_ok=True)
    # Whatever has that name goes first: a link that a stranger left there would be written through.
    partial.unlink(missing_ok=True)
    try:
        yield partial
        put_in_place(partial, path, lasts=lasts)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def put_in_place(partial: Path, path: Path, *, lasts: bool = False) -> None:
    """Gives a file that is complete its name.

    Args:
        partial: what it is called until now.
        path: its name; what had it is replaced.
        lasts: whether both, what is in it and its name, are on the disk when this returns.
    """
    if lasts:
        _flush(partial)
    partial.replace(path)
    if lasts and os.name == "posix":  # elsewhere folders cannot be opened
        _flush(path.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def written_whole(path: Path, what: str, *, again: str = CALL_SEARCH, lasts: bool = False) -> Iterator[Path]:
    """See `replaced`; a disk that is full, or cannot be written to, is told in words.

    Args:
        path: the file's name; its folder is made, but none above it unless the file lasts: a project's folder that
            somebody has moved or deleted is not begun anew.
        what: what is in it, for the message.
        again: what to do once it can be written, for the message.
        lasts: whether it is to survive a power cut.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    with (
        writing(f'{what} "{path}"', again=again),
        replaced(path, lasts=lasts, makes_parents=lasts) as partial,
    ):
        yield partial


@contextlib.contextmanager
def rewritten(path: Path, what: str) -> Iterator[Path]:
    """See `written_whole`, of a file whose earlier content is no use once a new one is due.

    Where that cannot be written the earlier one goes, too: weights of an earlier epoch, or predictions of an earlier
    attempt, would be taken for those of the execution that has ended since.

    Args:
        path: the file's name.
        what: what is in it, for the message.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    try:
        with written_whole(path, what) as partial:
            yield partial
    except ProjectError:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def writing(where: str, *, again: str = CALL_SEARCH) -> Iterator[None]:
    """Tells in words what an `OSError` inside means.

    Args:
        where: what is written.
        again: what to do once it can be.

    Raises:
        ProjectError: the disk is full or cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise write_failed(where, error.strerror or str(error), number=error.errno, again=again) from error


def write_failed(where: str, why: str, *, number: int | None = None, again: str = CALL_SEARCH) -> ProjectError:
    """The error of a write that the disk did not take.

    Args:
        where: what was written.
        why: in the words of the system.
        number: the system's number of the error; None: unknown, a full disk most likely.
        again: what to do afterwards.
    """
    instead = f"Make it writable, and {again}"
    if number not in _FORBIDDEN:
        instead = f"Put it back, and {again}" if number in _GONE else f"Free some space, and {again}"
    allowed = "a folder that is there" if number in _GONE else "a writable disk with free space"
    return ProjectError(explain(where, f"a write that failed ({why})", allowed, instead))


def digest_of(path: Path) -> str:
    """The checksum of a file (SHA-256), which no other content has.

    Raises:
        OSError: it cannot be read.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "empty"
    >>> path.touch()
    >>> digest_of(path)[:8]
    'e3b0c442'
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_checksum(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts for a file of JSON, and their checksum among them: a file that is edited or damaged is told by it.

    Example:

    >>> told = with_checksum({"seconds": 3.0, "shape": (2, 3)})
    >>> has_right_checksum(told), has_right_checksum({**told, "seconds": 4.0}), has_right_checksum({"seconds": 3.0})
    (True, False, True)
    """
    # As they come back from the file: tuples are lists there, and keys are texts.
    own = {name: value for name, value in json.loads(json.dumps(facts)).items() if name != _CHECKSUM}
    return {**own, _CHECKSUM: hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()}


def has_right_checksum(facts: Mapping[str, Any]) -> bool:
    """Whether facts are those that `with_checksum` was given; those of earlier versions, which have none, pass."""
    return _CHECKSUM not in facts or with_checksum(facts)[_CHECKSUM] == facts[_CHECKSUM]


def cache_folder(*parts: str) -> Path | None:
    """Where things lie that can be made again: compiled programs, measured layouts. It is not made.

    Args:
        *parts: a folder in it.

    Returns:
        A folder in `MANYFIT_CACHE_DIR` (None where that says "off"), else in the cache folder that the system has for
        its user: `~/.cache/manyfit` on Linux (or what `XDG_CACHE_HOME` says), `~/Library/Caches/manyfit` on macOS.
    """
    given = os.environ.get("MANYFIT_CACHE_DIR")
    if given is None:
        return platformdirs.user_cache_path("manyfit", appauthor=False).joinpath(*parts)
    return None if given.lower() in _OFF else Path(given).expanduser().joinpath(*parts)


# Seals ---------------------------------------------------------------------------------------------------------

_SEAL = b"\nmanyfit seal 1 "  # behind a pickle, whose readers stop at its end: other programs can load it as before
_SEAL_BYTES = len(_SEAL) + 64
_SECRET_BYTES = 32


def sealed(content: bytes) -> bytes:
    """Content with the seal of this user on this machine at its end; one that was there is replaced.

    Example:

    >>> is_sealed(sealed(b"content")), is_sealed(sealed(b"content").replace(b"n", b"m")), is_sealed(b"content")
    (True, False, False)
    """
    content = without_seal(content)
    return content + _SEAL + _hash_of(content)


def is_sealed(content: bytes) -> bool:
    """Whether this user has written the content on this machine."""
    found = content[-64:]
    return has_seal(content) and hmac.compare_digest(found, _hash_of(without_seal(content)))


def has_seal(content: bytes) -> bool:
    """Whether there is a seal, whoever's it is."""
    return content[-_SEAL_BYTES:].startswith(_SEAL) and len(content) >= _SEAL_BYTES


def without_seal(content: bytes) -> bytes:
    """Content without its seal."""
    return content[:-_SEAL_BYTES] if has_seal(content) else content


def unsealed(
    path: Path,
    what: str,
    *,
    trust: bool,
    instead: str = "If you know who wrote this project, make the tuner with trust=True.",
) -> bytes:
    """Reads a file whose content can run code when it is loaded, if it may be loaded.

    Args:
        path: the file.
        what: what it holds, for the message.
        trust: whether the user has said that files of this origin may run code.
        instead: what to type where it may not.

    Raises:
        ProjectError: somebody else wrote it, or this user on another machine, and `trust` is False.
    """
    content = path.read_bytes()
    if trust or is_sealed(content):
        return without_seal(content)
    raise ProjectError(
        explain(
            f'{what} "{path}"',
            "a pickle that was not written by you on this machine; loading it may run any code",
            "your own files, and those of people you trust",
            instead,
        )
    )


def _hash_of(content: bytes) -> bytes:
    return hmac.new(_secret_in(_secret_folder()), content, hashlib.sha256).hexdigest().encode()


def _secret_folder() -> Path:
    """Beside the caches where these were given a folder, else in the user's settings: it is not to be made again."""
    named = None if os.environ.get("MANYFIT_CACHE_DIR") is None else cache_folder()
    return platformdirs.user_config_path("manyfit", appauthor=False) if named is None else named


@functools.cache
def _secret_in(folder: Path) -> bytes:
    """The secret in a folder, made where there is none; one of this process alone where none can be kept there."""
    path = folder / "secret"
    with contextlib.suppress(OSError):
        if not path.exists():
            _make_secret(path)
        found = path.lstat()
        # A secret that somebody else may have put there, or read, proves nothing.
        is_ours = os.name != "posix" or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
        secret = path.read_bytes()
        if is_ours and not path.is_symlink() and len(secret) == _SECRET_BYTES:
            return secret
    return secrets.token_bytes(_SECRET_BYTES)


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)  # readable by this user only
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SECRET_BYTES))
        # A link and no renaming: of two processes that make one at the same time, the first one's stands.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.unlink(partial)
