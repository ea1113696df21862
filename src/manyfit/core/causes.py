"""What an exception comes down to, in one line: its type, its own message, and the user's own line of code.

An exception arrives here wrapped. Keras repeats its text between a headline and a list of arguments, JAX adds notes on
its tracebacks, TensorFlow the operations of a graph, and an error that crossed a compiled program is text in another
one's message. None of that is a cause. So what raised it is asked first, the chain of exceptions; text is read only for
what a library has put there in place of an exception.

This line ends the message of a trial (`core.lifecycle.failure_of`), and is what reports show and count by. All of the
message is in it, numbers included: two causes that differ in anything are two.
"""

from __future__ import annotations

import dataclasses
import linecache
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

_MOST_OF_A_LINE, _MOST_OF_ALL = 600, 1000  # characters: a report is read, and libraries print whole programs

_OURS = str(Path(__file__).resolve().parents[1])
#: Where code that is not the user's lies: Python, packages, Manyfit.
_LIBRARIES = tuple(
    {str(Path(path).resolve()) for name, path in sysconfig.get_paths().items() if name.endswith(("lib", "stdlib"))}
    | {_OURS}
)
_PACKAGES = re.compile(r"[\\/](site|dist)-packages[\\/]|__autograph_generated_file")
#: Code of the user's without a file: typed at a prompt, or pickled without its name. Other "<...>" is a library's.
_TYPED = ("<stdin>", "<python-input", "<ipython-input", "<doctest", "<dynamic-code>")

#: Lines that libraries add, and what they say around a message of somebody else.
_FILLER = re.compile(
    r"""
      -{8,} | ={8,}
    | For\ simplicity,\ JAX\ has\ removed | The\ stack\ trace\ below\ excludes\ JAX | Set\ JAX_TRACEBACK_FILTERING
    | The\ error\ occurred\ while\ tracing\ the\ function | See\ https://docs\.jax\.dev/
    | Exception\ encountered\ when\ calling\  | Could\ not\ automatically\ infer\ the\ output\ shape
    | Graph\ execution\ error: | Detected\ at\ node\  | Stack\ trace\ for\ op\ definition | Original\ stack\ trace\ for
    | \d+\ root\ error\(s\)\ found | \(\d+\)\ [A-Z_ ]+:\ *$ | \d+\ successful\ operations
    | \d+\ derived\ errors\ ignored
    | \[?\[\{\{node\  | \[Op: | Node:\ ['"{]
    | Set\ TORCHDYNAMO_VERBOSE | from\ user\ code: | You\ can\ suppress\ this\ exception
    """,
    re.VERBOSE,
)
#: From here on Keras lists what a layer was called with.
_ARGUMENTS = re.compile(r"^\s*(Call a|A)rguments received by .*", re.MULTILINE | re.DOTALL)
_OPERATION = re.compile(r"\s*\[\[(\{\{node .*?\}\}|[A-Z]\w*)\]\]|\s*\[Op:[^\]]*\]|\{\{function_node .*?\}\}\s*")
_COLOUR = re.compile(r"\x1b\[\d*m")
#: Where an object lies in memory differs from trial to trial, and is nobody's cause.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(, in .*)?$')
_RETELLS = re.compile(r"\(most recent call last\):\s*$|^in user code:$")
_ERROR = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Iteration|Warning)): ?(?P<text>.*)$")


@dataclasses.dataclass(frozen=True)
class Cause:
    """What an exception comes down to.

    Attributes:
        kind: the class's name.
        text: its message without what libraries add, as one line; "" where there is none.
        place: file name and line of the user's code where it happened; None where none took part.
        code: the text of that line; "" where it cannot be read.
        root: the error that it came from, where whoever raised it said so.

    Example:

    >>> str(Cause("ValueError", "no such layer", "model.py:12", "raise ValueError(name)"))
    'ValueError: no such layer (model.py:12: raise ValueError(name))'
    """

    kind: str
    text: str
    place: str | None = None
    code: str = ""
    root: str | None = None

    @property
    def words(self) -> str:
        """Type and message alone."""
        return f"{self.kind}: {self.text}" if self.text else self.kind

    def __str__(self) -> str:
        line = self.words
        if self.root is not None:
            line += f", from {self.root}"
        if self.place is None:
            return line
        return f"{line} ({self.place}: {self.code})" if self.code else f"{line} ({self.place})"


def cause_of(error: BaseException) -> Cause:
    """What an exception comes down to.

    Args:
        error: as it was caught, where its traceback and the exceptions it came from are still there.

    Example:

    >>> str(cause_of(KeyError("units")))
    "KeyError: 'units'"
    """
    chain = _without_wrappers(error)
    told = chain[0]
    kind, text, retold = _words(told)
    place, code = next(filter(None, (_own_line(each.__traceback__) for each in chain)), None) or retold or (None, "")
    return Cause(kind, text, place, code, _root_of(told, text))


def reason_of(message: str | None) -> str:
    """The line of a trial's message that says why it ended: the last one, where `failure_of` puts the cause.

    Example:

    >>> reason_of("Traceback ...\\nKeyError: 'x'"), reason_of(None)
    ("KeyError: 'x'", '')
    """
    lines = (message or "").strip().splitlines()
    return lines[-1] if lines else ""


def traceback_of(error: BaseException) -> str:
    """The traceback as Python prints it, without the notes that libraries add."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line for line in lines if not _FILLER.match(line) or line.startswith("  ")).rstrip()


# The chain ----------------------------------------------------------------------------------------------------------


def _without_wrappers(error: BaseException) -> list[BaseException]:
    """The exception that was wrapped, then those around it, up to the one that was caught.

    Who wraps repeats the text of what is wrapped. That tells a wrapper from an attempt that a library made before
    another one, whose error Python keeps as the context of the next.
    """
    chain = [error]
    while (inner := _inner_of(chain[0])) is not None and _repeats(chain[0], inner):
        chain.insert(0, inner)
    return chain


def _inner_of(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    # The context also where it is suppressed: Keras raises its copies with `from None`.
    return error.__cause__ or error.__context__


def _repeats(outer: BaseException, inner: BaseException) -> bool:
    """Whether the outer one says again what the inner one says."""
    text, told = _plain(inner), _plain(outer)
    # Keras makes a copy of what a layer raises from its text, which is not what JAX's errors are made of.
    failed_copy = isinstance(outer, AttributeError) and "_error_repr" in told
    return isinstance(outer, BaseExceptionGroup) or failed_copy or (text != "" and text in told)


def _root_of(told: BaseException, text: str) -> str | None:
    """What an exception came from, where that says something new.

    An explicit `raise ... from` does. A context alone does where the user's own code raised: in a library it is most
    often an attempt that was expected to fail. (A suppressed one counts, too: Keras re-raises everything `from None`.)
    """
    origin, seen = told, {id(told)}
    while True:
        inner = origin.__cause__ or (origin.__context__ if _raised_by_user(origin) else None)
        if inner is None or id(inner) in seen:
            break
        origin = inner
        seen.add(id(origin))
    if origin is told:
        return None
    kind, words, _ = _words(origin)
    # A copy of the same error, made to travel between processes or to show hidden frames, is no other error.
    return None if not words or words in text or (text and text in words) else f"{kind}: {words}"


def _raised_by_user(error: BaseException) -> bool:
    frames = list(_frames(error.__traceback__))
    return bool(frames) and _is_users(frames[-1][0])


# The message --------------------------------------------------------------------------------------------------------


def _plain(error: BaseException) -> str:
    """The text of an exception, as its class gives it."""
    try:
        return _COLOUR.sub("", str(error)).strip()
    except Exception:  # a class of the user's whose `__str__` fails must not hide that there is an error
        return ""


def _words(error: BaseException) -> tuple[str, str, tuple[str, str] | None]:
    """Type, own message in one line, and where the message itself names one, the user's line."""
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
    text = "\n".join([_ARGUMENTS.sub("", _plain(error)), *notes])
    kind, place, in_frame = type(error).__name__, None, False
    lines: list[str] = []
    for line in _ADDRESS.sub("", _COLOUR.sub("", text)).splitlines():
        frame = _FRAME.match(line)
        if frame is not None:
            in_frame = True
            if _is_users(frame["file"]):
                place = _named(frame["file"], int(frame["line"]))
            elif frame["file"].startswith(_OURS):
                place = None  # what was before is who called us, which is no cause
        elif _RETELLS.search(line):
            lines.clear()  # what comes now is told once more, from its beginning
        elif in_frame and line.startswith("    "):
            continue  # the code of a frame
        else:
            in_frame = False
            lines.append(_OPERATION.sub("", line).strip())
    said = [line for line in lines if line and not _FILLER.match(line)]
    if place is not None and said and (retold := _ERROR.match(said[0])) is not None:
        kind, said[0] = retold["kind"].rpartition(".")[2], retold["text"]
    return kind, _one_line(said), place


def _one_line(lines: list[str]) -> str:
    """The first line whole, as far as it can be read, and what else there is behind it."""
    if not lines:
        return ""
    first, rest = _cut(lines[0], _MOST_OF_A_LINE), " / ".join(lines[1:])
    return first if not rest else _cut(f"{first} / {rest}", _MOST_OF_ALL)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


# The line of code ---------------------------------------------------------------------------------------------------


def _own_line(frames: TracebackType | None) -> tuple[str, str] | None:
    """The innermost line of the user's code: file name and number, and its text."""
    own = [(file, line) for file, line in _frames(frames) if _is_users(file)]
    return _named(*own[-1]) if own else None


def place_of(frame: FrameType | None) -> str:
    """The line of the user's code that a thread is at, with its text; "" where none takes part.

    Args:
        frame: the innermost one.
    """
    while frame is not None:
        if _is_users(frame.f_code.co_filename):
            place, code = _named(frame.f_code.co_filename, frame.f_lineno)
            return f"{place}: {code}" if code else place
        frame = frame.f_back
    return ""


def _frames(frames: TracebackType | None) -> Iterator[tuple[str, int]]:
    for frame, line in traceback.walk_tb(frames):
        yield frame.f_code.co_filename, line


def _named(file: str, line: int) -> tuple[str, str]:
    # Read here: in another process, or once the file was edited, the line is another one.
    return f"{Path(file).name}:{line}", linecache.getline(file, line).strip()


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return file.startswith(_TYPED)
    return _PACKAGES.search(file) is None and not str(Path(file).absolute()).startswith(_LIBRARIES)
