"""The command line: `manyfit`, or `python -m manyfit`. It parses, calls and prints.

Looking at projects loads neither Keras nor JAX nor NumPy, so that it answers at once; what computes is imported by the
command that does. Exit codes: 0, 1 for what went wrong (the reason is on standard error), 2 for a wrong command line,
and 130 for Ctrl+C, as shells have it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import manyfit
from manyfit.core.errors import ManyfitError, ProjectError, UsageError, explain, first_line
from manyfit.core.untrusted import shown
from manyfit.dashboard.command import dashboard
from manyfit.report.pruning import prunable
from manyfit.report.snapshot import Snapshot
from manyfit.store import ProjectStore
from manyfit.store.reading import projects_below, what_is_at

_TO = ("csv", "parquet", "optuna", "mlflow", "wandb")
_ENDINGS = {"parquet": "parquet", "optuna": "db"}
_INTERRUPTED = 130  # as shells have it
_Project = click.Path(path_type=Path)


class _Seconds(click.FloatRange):
    """A number of seconds: "nan" and "inf" are no such numbers, and lie within any range of click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found: float = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return found


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(manyfit.__version__, prog_name="manyfit")
def command_line() -> None:
    """Fit many models at once. Keep what really wins."""


command_line.add_command(dashboard)


@command_line.command()
def doctor() -> None:
    """What there is to compute on, what will be used, and what is missing."""
    from manyfit.training.doctor import diagnose  # loads Keras

    click.echo(diagnose())


@command_line.command("ls")
@click.argument("folder", type=_Project, default=Path())
@click.option("--json", "as_json", is_flag=True, help="For programs: see docs/looking.md.")
def list_projects(folder: Path, as_json: bool) -> None:
    """The projects in FOLDER and below it: best score with its interval, trials, who works on them."""
    from manyfit.report import pages  # loads rich, which `--version` and completion do not need

    found = projects_below(folder)
    if not found:
        raise ProjectError(
            explain(
                f"manyfit ls {folder}",
                what_is_at(folder, "a folder without projects"),
                "a folder with projects in it or below",
                "Type the directory= of your tuners.",
            )
        )
    if as_json:
        text, num_unread = pages.list_as_json(found, folder)
        click.echo(text)
    else:
        table, num_unread = pages.list_of_projects(found, folder)
        pages.console().print(table)
    if num_unread == len(found):
        got, allowed = f"projects of which none can be read ({num_unread})", "a folder with projects that can be read"
        raise ProjectError(explain(f"manyfit ls {folder}", got, allowed, "The list says why of each, and what to do."))


@command_line.command()
@click.argument("project", type=_Project)
@click.option("--trial", metavar="N", help="One trial: values, runs, curves, why it ended.")
@click.option("--json", "as_json", is_flag=True, help="For programs: see docs/looking.md.")
@click.option("--watch", is_flag=True, help="Look again every second, until it is over or Ctrl+C.")
def show(project: Path, trial: str | None, as_json: bool, watch: bool) -> None:
    """What is known of PROJECT, also while another process searches there."""
    from manyfit.report import pages  # loads rich

    if watch and (as_json or trial is not None):
        got, allowed = "--watch with --trial or --json", "one of them: --watch shows the whole project"
        raise click.UsageError(explain("manyfit show", got, allowed, "Type --watch alone, and leave out the others."))
    if watch and sys.stdout.isatty():
        _watch(project)
        return
    seen = Snapshot.of(project)
    chosen = None if trial is None else seen.trial(trial)
    if as_json:
        click.echo(pages.as_json(seen, chosen))
    else:
        pages.console().print(pages.page(seen) if chosen is None else pages.trial_page(seen, chosen))


def _watch(project: Path) -> None:
    """The screen of the search, from outside; at its end, or Ctrl+C, the page of the project."""
    from manyfit.report import pages  # loads rich
    from manyfit.show.outside import watch  # loads rich, too

    seen = watch(project, pages.console())
    pages.console().print(pages.page(seen))


def _is_worked_on(seen: Snapshot) -> bool:
    return seen.activity is not None and seen.activity.until is None and not seen.has_died


@command_line.command()
@click.argument("project", type=_Project)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--every", type=_Seconds(min=1), metavar="SECONDS", help="Write it again, while a search writes.")
def report(project: Path, output: Path, every: float | None) -> None:
    """Writes what is known of PROJECT as one HTML file: what is real, what to change, where the time went.

    With --every the page loads itself again, and the command ends with the search, or at Ctrl+C.
    """
    from manyfit.report.page import write_page  # loads NumPy, Jinja2 and the scripts

    # The last one is written without: a page that is over need not load itself again.
    seen = Snapshot.of(project)
    while every is not None and _is_worked_on(seen):
        write_page(seen, output, every_seconds=every)
        time.sleep(every)
        seen = Snapshot.of(project)
    click.echo(write_page(seen, output))


@command_line.command()
@click.argument("a", type=_Project)
@click.argument("b", type=_Project)
def compare(a: Path, b: Path) -> None:
    """Whether method A beats method B: the difference with its interval.

    A and B are projects, or folders with one project per repetition (seed) of the method.
    """
    from manyfit.finish.compare import compare as compared  # loads NumPy

    click.echo(shown(str(compared(*([str(path) for path in projects_below(folder)] for folder in (a, b))))))


@command_line.command()
@click.argument("project", type=_Project)
@click.option("--keep", default=10, show_default=True, type=click.IntRange(min=1), help="Trials whose files stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(project: Path, keep: int, yes: bool) -> None:
    """Deletes weights and kept predictions of all but the best trials of PROJECT; says first how large they are.

    Values, scores and curves stay. So do files of trials that run, and of members of the latest ensemble.
    """

    with contextlib.closing(ProjectStore(Snapshot.of(project).folder)):  # nobody else writes meanwhile
        files = prunable(Snapshot.of(project), keep)
        size = sum(path.stat().st_size for path in files) / 1e6
        click.echo(f"{len(files)} files, {size:.1f} MB, of trials behind the best {keep}.")
        if not files:
            return
        try:
            is_sure = yes or click.confirm("Delete them?")
        except click.Abort:  # Ctrl+C, or nobody there who could answer
            raise ProjectError("Nothing was deleted: nobody has said yes. Type --yes where nobody is asked.") from None
        if is_sure:
            for path in files:
                path.unlink(missing_ok=True)
            click.echo(f"Deleted {size:.1f} MB.")


@command_line.command()
@click.argument("project", type=_Project)
@click.option("--to", "kind", type=click.Choice(_TO), default="csv", show_default=True)
@click.option("--curves", is_flag=True, help="csv, parquet: a row per epoch instead of one per execution.")
@click.option(
    "-o", "--output", help="csv, parquet: a file. optuna: a file or an address of a database. mlflow: likewise, or a "
    "server. wandb: a folder.",
)  # fmt: skip
@click.option("--name", help="optuna, mlflow, wandb: of the study, experiment or project there; else the project's.")
def export(project: Path, kind: str, curves: bool, output: str | None, name: str | None) -> None:
    """The results of PROJECT for other tools: a table, or told to Optuna, MLflow or Weights & Biases.

    csv is printed where there is no -o. What another tool has of the project already is not told it again.
    """
    is_table = kind in ("csv", "parquet")
    if (is_table and name is not None) or (curves and not is_table):
        got = f"{'--curves' if curves else '--name'} with --to {kind}"
        allowed = "--curves is for csv and parquet, --name for the others"
        raise click.UsageError(explain("manyfit export", got, allowed, "Leave it out."))
    if output is None and kind in ("parquet", "optuna"):
        got, allowed = f"--to {kind} without -o", f"--to {kind} needs -o: where to write"
        raise click.UsageError(explain("manyfit export", got, allowed, f"Type -o results.{_ENDINGS[kind]}, say."))
    if output == "":
        got, allowed = "no name", "the name of a file, or an address of the tool"
        raise click.UsageError(explain("manyfit export -o", got, allowed, "Type one, or leave -o out."))
    if is_table:
        _export_table(project, kind, curves, output)
    else:
        seen = Snapshot.of(project)
        try:
            said = _exported(seen, kind, output, name)
        except (ManyfitError, ImportError):
            raise
        except Exception as error:  # of the tool, which has errors of its own: no such file, server, driver, login
            got = f"{type(error).__name__} of the tool ({first_line(error)})"
            allowed = "a file or an address where it can write, and that is its own"
            raise UsageError(explain(f"manyfit export --to {kind}", got, allowed, "Type -o with another.")) from error
        click.echo(shown(said))


def _export_table(project: Path, kind: str, curves: bool, output: str | None) -> None:
    from manyfit.report import files  # for this command alone

    results = Snapshot.of(project).results()
    rows = results.curves if curves else [row.flat() for row in results]
    path = None if output is None else Path(output)
    if path is not None and not path.parent.is_dir():
        got, allowed = f"{output}, whose folder is not there", "a file in a folder that is there"
        raise UsageError(explain("export -o", got, allowed, f"Type mkdir -p {path.parent} first."))
    if kind == "parquet" and path is not None:
        files.write_parquet(rows, path)
    else:
        files.write_csv(rows, path)


def _exported(seen: Snapshot, kind: str, output: str | None, name: str | None) -> str:
    from manyfit import trackers  # loads NumPy

    ended = sum(trial.ended_at is not None for trial in seen.trials)
    if kind == "optuna":
        study = trackers.export_study(seen, str(output), name)
        return f"{len(study.trials)} trials in the study {study.study_name!r} in {output}."
    if kind == "mlflow":
        address = None if output is None else trackers.storage_address(output)
        trackers.tell_all(seen, trackers.MLflow(address, name))
        return f"{ended} trials told to MLflow."
    trackers.tell_all(seen, trackers.WandB(name, folder=output))
    return f"{ended} trials told to Weights & Biases, as files: wandb sync uploads them."


@command_line.command()
@click.option("--seconds", default=30.0, show_default=True, type=_Seconds(min=5), help="For all of it.")
@click.option("-o", "--output", type=_Project, help="The folder of its project; else one for temporary files.")
def demo(seconds: float, output: Path | None) -> None:
    """From rows to a winner, on rows that are made up; and what to type to look at it."""
    from manyfit import demo as demonstration  # loads Keras

    demonstration.run(output, seconds)


@command_line.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """What completes commands in SHELL: print it, or have the shell read it at its start.

    \b
    bash:  manyfit completion bash > ~/.manyfit-completion; echo ". ~/.manyfit-completion" >> ~/.bashrc
    zsh:   the same with zsh and ~/.zshrc
    fish:  manyfit completion fish > ~/.config/fish/completions/manyfit.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # our bug: the three that click has
    click.echo(kind(command_line, {}, "manyfit", "_MANYFIT_COMPLETE").source())


def _in_four_parts(error: click.ClickException) -> str:
    """What is wrong with a command line; click says what came in, and its parameters know what is allowed."""
    said = error.format_message().removesuffix(".")
    if not isinstance(error, click.UsageError) or ". Allowed: " in said:
        return said  # it is one of ours
    context = error.ctx
    where = "manyfit" if context is None else context.command_path
    command = command_line if context is None else context.command
    options = [opt for each in command.params for opt in each.opts if opt.startswith("--")]
    allowed = f"what {where} takes"
    if isinstance(error, click.NoSuchOption):
        allowed = f"its options: {', '.join([*options, '--help'])}"
    elif isinstance(command, click.Group):
        allowed = f"a command: {', '.join(command.commands)}"
    elif isinstance(error, click.BadParameter) and error.param is not None:
        allowed = _allowed(error.param)
    elif context is not None:
        allowed = " ".join(command.collect_usage_pieces(context))
    # The first sentence is what came in; what follows in click's is what was meant.
    got, _, meant = said.partition(". ")
    return explain(where, f"a wrong command line ({got})", allowed, f"{meant} Type {where} --help.".lstrip())


def _allowed(parameter: click.Parameter) -> str:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        return ", ".join(map(str, kind.choices))
    if isinstance(kind, click.IntRange | click.FloatRange):
        ends = (
            f"from {kind.min:g}" if kind.min is not None else "",
            f"to {kind.max:g}" if kind.max is not None else "",
        )
        return f"a {'whole ' if isinstance(kind, click.IntRange) else ''}number {' '.join(filter(None, ends))}"
    return parameter.make_metavar(click.Context(command_line))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: of the command line; None: those of this process.

    Returns:
        The exit status: 0, or 1 where something went wrong that standard error names.

    Raises:
        SystemExit: 2, for a command line that is not right.
    """
    given = None if arguments is None else list(arguments)
    try:
        # Not its own mode for programs: that ends the process, which belongs to whoever calls this function.
        command_line.main(given, prog_name="manyfit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # its text is the help
        error.show()
        raise SystemExit(error.exit_code) from None
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        usage = "" if context is None else f"{context.get_usage()}\n\n"
        click.echo(shown(f"{usage}manyfit: {_in_four_parts(error)}"), err=True)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except BrokenPipeError:  # who reads, `head` say, has seen enough
        sys.stderr.close()
        return 0
    except (ManyfitError, ImportError) as error:  # an extra that is not installed: the message says which
        click.echo(shown(f"manyfit: {error}"), err=True)
        return 1
    return 0
