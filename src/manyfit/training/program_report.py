"""What `tuner.programs()` shows: records of compiled programs.

They come from the population, from workers as messages, and go to the user; so this file needs neither Keras nor JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from manyfit.core.html import MOST_ROWS, cell, piece, table


@dataclasses.dataclass(frozen=True)
class ProgramRecord:
    """What is known of one program.

    Attributes:
        program: its id.
        structure: the model in a few words.
        members: executions that it has trained.
        lifted: numbers in which its members may differ: those that are inputs of it.
        versions: how often it had to be compiled anew because members began to differ in further numbers.
        compilations: training programs that were compiled, over all layouts, member counts and versions.
        layout: the layout that is in use.
        compile_seconds: over all layouts, member counts and versions.
        epoch_seconds: layout -> measured seconds per member and epoch.
        epochs_timed: how many epochs these come from.
        tier: how its training is compiled: "quick", or "full" where enough was left to train to pay for that.
        frozen: what is computed once of each row instead of in every step, in words; empty where nothing is.
        widths: of the layers of a program that members of several structures share; empty: one structure's own.
        num_structures: that its members are of.
        padding: share of its multiplications that narrower members did not need.
    """

    program: str
    structure: str
    members: int
    lifted: int
    versions: int
    compilations: int
    layout: str
    compile_seconds: float
    epoch_seconds: dict[str, float]
    epochs_timed: int
    tier: str = "full"
    frozen: str = ""
    widths: str = ""
    num_structures: int = 1
    padding: float = 0.0


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs of a search and the reasons for what did not fit; prints as a table."""

    records: tuple[ProgramRecord, ...]
    reasons: dict[str, tuple[str, ...]]

    @classmethod
    def joined(cls, several: Iterable[Programs]) -> Programs:
        """The programs of several trainers, with the trials that share a reason put together."""
        several = list(several)
        # Workers fall back for the same reasons: a line for each reason, not for each worker.
        reasons: dict[str, tuple[str, ...]] = {}
        for programs in several:
            for why, trials in programs.reasons.items():
                reasons[why] = (*reasons.get(why, ()), *trials)
        return cls(tuple(record for programs in several for record in programs.records), reasons)

    @property
    def sharing(self) -> str:
        """How many structures share how many programs, and what that cost and saved; empty where none is shared."""
        # One that was found not to be exact has trained nobody.
        wide = [record for record in self.records if record.widths and record.epochs_timed]
        if not wide:
            return ""
        members = sum(record.members for record in wide)
        padding = sum(record.padding * record.members for record in wide) / max(1, members)
        spent = sum(record.compile_seconds for record in self.records)
        compilations = sum(record.compilations for record in self.records)
        structures = sum(record.num_structures for record in wide)
        line = (
            f"{structures} structures share {len(wide)} wide programs, {len(self.records) - len(wide)} have their own; "
            f"padding wasted {padding:.0%} of the multiplications there; compiling took {spent:.1f} s"
        )
        saved = (structures - len(wide)) * spent / max(1, compilations)
        return line + (f" and would have taken about {saved:.1f} s more" if saved > 0 else "")

    def _repr_html_(self) -> str:
        members = sum(record.members for record in self.records)
        spent = sum(record.compile_seconds for record in self.records)
        lead = f"{members} executions trained as {len(self.records)} programs, compiled in {spent:.1f} s"
        heads = ["program", "members", "lifted", "compiled", "seconds", "layout", "s/epoch", "structure"]
        rows = [
            [
                record.program, str(record.members), str(record.lifted), str(record.compilations),
                f"{record.compile_seconds:.2f}", record.layout, cell(record.epoch_seconds.get(record.layout)),
                cell("; ".join(filter(None, (record.widths or record.structure, record.frozen))), 100),
            ]
            for record in self.records[:MOST_ROWS]
        ]  # fmt: skip
        alone = [f"Trained with model.fit ({len(trials) or 'all'}): {why}" for why, trials in self.reasons.items()]
        shown = table(heads, rows, numeric={1, 2, 3, 4, 6}, sortable=True) if rows else ""
        return piece([lead, *([self.sharing] if self.sharing else [])], shown, alone)

    def __str__(self) -> str:
        lines = [self.sharing] if self.sharing else []
        lines += [
            f"{'program':<17} {'members':>7} {'lifted':>6} {'compiled':>8} {'seconds':>7} {'layout':<16} "
            f"{'s/epoch':>8}  structure"
        ]
        for record in self.records:
            seconds = record.epoch_seconds.get(record.layout)
            shown = "" if seconds is None else f"{seconds:.3f}"
            structure = "; ".join(filter(None, (record.widths or record.structure, record.frozen)))
            lines.append(
                f"{record.program:<17} {record.members:>7} {record.lifted:>6} {record.compilations:>8} "
                f"{record.compile_seconds:>7.2f} {record.layout:<16} {shown:>8}  {structure}"
            )
        lines += [f"trained with model.fit ({len(trials) or 'all'}): {why}" for why, trials in self.reasons.items()]
        return "\n".join(lines)
