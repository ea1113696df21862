"""Pictures of a search: history, curves, slice, contour, importance, finalists, pareto, time, ensemble.

The source is a tuner, an opened project, or a project's folder; another process may be searching there. In Jupyter a
figure is live, and a picture where no scripts run. `.spec` is Vega-Lite, for editors and Altair; `.save("x.svg")`,
`.save("x.png")` and `.save("x.html")` need the extra `manyfit[report]`.

    import manyfit as kt

    kt.plot.importance("run/search").save("importance.svg")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import written_whole
from manyfit.core.signatures import checked_arguments
from manyfit.report import bars, charts
from manyfit.report.drawing import html_page, png, svg
from manyfit.report.ranges import searched_ranges
from manyfit.report.snapshot import Snapshot
from manyfit.report.vega import Spec
from manyfit.store.reading import rows_told

__all__ = [
    "Figure", "contour", "curves", "ensemble", "finalists", "history", "importance", "pareto", "slice", "time",
]  # fmt: skip

_MIME = "application/vnd.vegalite.v5+json"  # of JupyterLab, VS Code and Colab; they take the newer version as well
_WRITERS = {".svg": lambda spec: svg(spec).encode(), ".png": png, ".html": lambda spec: html_page(spec).encode()}


@runtime_checkable
class HasProject(Protocol):
    """A tuner."""

    @property
    def project_dir(self) -> str:
        """The project's folder."""
        ...


Source: TypeAlias = "Snapshot | HasProject | str | os.PathLike[str]"


class Figure:
    """A chart of a project.

    Args:
        spec: Vega-Lite.

    Attributes:
        spec: Vega-Lite, a JSON object.
    """

    @checked_arguments()
    def __init__(self, spec: Mapping[str, object]) -> None:
        self.spec = dict(spec)

    @checked_arguments()
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture; the ending says as what.

        Args:
            path: of the file: ".svg", ".png", or ".html", which needs no network.

        Returns:
            The path.

        Raises:
            ImportError: `pip install manyfit[report]`.
            UsageError: another ending.
            ProjectError: the disk is full or cannot be written to.
        """
        path = Path(path)
        write = _WRITERS.get(path.suffix.lower())
        if write is None:
            allowed = "a name that ends in " + ", ".join(_WRITERS)
            raise UsageError(explain("save(path)", path.name, allowed, f'Type "{path.stem}.svg".'))
        # Before the file is opened: what cannot be drawn must not cost the picture that is there.
        content = write(self.spec)
        with written_whole(path, "picture", again="call save again.", lasts=True) as partial:
            partial.write_bytes(content)
        return path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, object]:
        del include, exclude  # hints only
        told = str(self.spec.get("description", "a chart"))
        bundle: dict[str, object] = {_MIME: self.spec, "text/plain": f"<Figure: {told}>"}
        # Without the extra it is live where scripts run, and a sentence where they do not.
        with contextlib.suppress(ImportError):
            bundle["image/svg+xml"] = svg(self.spec)
        return bundle

    def __repr__(self) -> str:
        return f"<Figure: {self.spec.get('description', 'a chart')}>"


@checked_arguments()
def history(source: Source, *, over: str = "trials") -> Figure:
    """Each trial's score, the best so far, and where the winner's score lies.

    Args:
        source: a tuner, an opened project, or a project's folder. So everywhere here.
        over: "trials", "seconds" or "epochs".

    Raises:
        UsageError: nothing is there to draw, as everywhere here; or `over` is another word.
    """
    allowed = ("trials", "seconds", "epochs")
    if over not in allowed:
        raise UsageError(explain("plot.history(over)", repr(over), ", ".join(allowed), 'Type over="seconds", say.'))
    return _figure("history", source, lambda seen: charts.history(seen, over), "a trial with a score")


@checked_arguments()
def curves(source: Source) -> Figure:
    """Curves of the best 200 trials, where the others lie, and which were stopped or paused."""
    return _figure("curves", source, charts.curves, "a trial that has logged the objective each epoch")


@checked_arguments()
def slice(source: Source, name: str) -> Figure:  # the word of the field
    """Scores over one hyperparameter.

    Args:
        source: see `history`.
        name: of the hyperparameter.
    """

    def draw(seen: Snapshot) -> Spec | None:
        _check_names(seen, "slice", name)
        return charts.slice_of(seen, name)

    return _figure("slice", source, draw, "a trial with a score")


@checked_arguments()
def contour(source: Source, first: str | None = None, second: str | None = None) -> Figure:
    """Scores over two hyperparameters whose values lie on a scale.

    Args:
        source: see `history`.
        first: its name; None: the first one there is. So for the other.
        second: another one.
    """

    def draw(seen: Snapshot) -> Spec | None:
        _check_names(seen, "contour", *(name for name in (first, second) if name is not None))
        return charts.contour(seen, first, second)

    return _figure("contour", source, draw, "six trials with a score, and two hyperparameters that are numbers")


@checked_arguments()
def importance(source: Source) -> Figure:
    """How much each hyperparameter decides whether a trial is among the best, with 90 % intervals (PED-ANOVA)."""
    return _figure("importance", source, bars.importance, "ten trials that differ")


@checked_arguments()
def finalists(source: Source) -> Figure:
    """Where each finalist's score lies; a cross is what the search said."""
    return _figure("finalists", source, bars.finalists, "five trials, or a confirmation")


@checked_arguments()
def pareto(source: Source) -> Figure:
    """The first two of several objectives, and the trials that no other one beats in all."""
    return _figure("pareto", source, charts.pareto, "a search for several objectives")


@checked_arguments()
def time(source: Source) -> Figure:
    """Where the seconds went."""
    return _figure("time", source, bars.time, "a trial that has ended")


@checked_arguments()
def ensemble(source: Source) -> Figure:
    """How much each member of the latest ensemble counts."""
    return _figure("ensemble", source, bars.ensemble, "a project with an ensemble: tuner.ensemble()")


def _seen(source: Source) -> Snapshot:
    if isinstance(source, Snapshot):
        return source
    if isinstance(source, str | os.PathLike):
        return Snapshot.of(source)
    if isinstance(source, HasProject):
        return Snapshot.of(source.project_dir)
    got, allowed = type(source).__name__, "a tuner, kt.open_project(folder), or a project's folder"
    raise UsageError(explain("plot(source)", got, allowed, 'Type kt.plot.history("directory/project_name").'))


def _check_names(seen: Snapshot, where: str, *names: str) -> None:
    known = [each.name for each in searched_ranges(seen)]
    for name in names:
        if name not in known:
            allowed = ", ".join(known) or "nothing yet: all trials have the same values"
            raise UsageError(explain(f"plot.{where}", repr(name), allowed, "Name one in which trials differ."))


def _figure(where: str, source: Source, draw: Callable[[Snapshot], Spec | None], needed: str) -> Figure:
    with rows_told(f"plot.{where}"):
        spec = draw(_seen(source))
    if spec is None:
        got = "a project without what it shows"
        raise UsageError(explain(f"plot.{where}", got, needed, "Call it again when there is."))
    return Figure(spec)
