"""The night's own history: its sessions and the turns in them, and what they leave of trials that were cut.

`history/night.jsonl` (and `night.2.jsonl`, … for each time that it went on) holds one operation for each
session and one for each turn of a piece, in the form of all history. A session that ends with `fail` was
stopped at that instant; one without an end was cut off. Reading is pure.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from loadtests.record import Kind, Record, now_ns, raw
from reports.model import CriterionResult, Deviation, PlannedScenario, ScenarioResult, Verdict
from verification.history import History, HistoryError, Journal, Operation, value_of
from verification.night_plan import Kind as PieceKind
from verification.night_plan import Piece
from verification.scenario_folder import Again
from verification.scenario_result import Result, worst

ALL_DONE = "all pieces are done"
BUDGET = "the budget was used up"


class SessionTold(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a session's records. `why` it ended: in its completion."""

    budget_s: float
    why: str = ""


class TurnTold(msgspec.Struct, frozen=True, kw_only=True):
    """The value of a turn's records. `done`: the piece needs no further one. `why`: what broke, for `fail`.

    Of a scenario also what it came to, cell by cell, and its folder below the run's.
    """

    piece: str
    done: bool = False
    why: str = ""
    results: tuple[Result, ...] = ()
    folder: str | None = None


class NightLog:
    """Writes the operations of one session; each is on disk when a method returns."""

    def __init__(self, path: Path, budget_s: float) -> None:
        self._journal = Journal(path)
        self._name = path.stem
        self._budget_s = budget_s
        self._turns = 0
        self._open = True
        self._write("session", Kind.INVOKE, self._name, SessionTold(budget_s=budget_s))

    def begin(self, piece: str) -> None:
        """A turn begins."""
        self._turns += 1
        self._write("turn", Kind.INVOKE, piece, TurnTold(piece=piece))

    def end(self, told: TurnTold) -> None:
        """The turn that was begun last came to its end; one that broke says why."""
        self._write("turn", Kind.FAIL if told.why else Kind.OK, told.piece, told)

    def stopped(self, why: str) -> None:
        """The session is stopped now: what is under way does not count."""
        self._finish(Kind.FAIL, why)

    def close(self, why: str) -> None:
        """The session came to its end, unless it was stopped before."""
        self._finish(Kind.OK, why)
        self._journal.close()

    def _finish(self, kind: Kind, why: str) -> None:
        if self._open:
            self._open = False
            self._write("session", kind, self._name, SessionTold(budget_s=self._budget_s, why=why))

    def _write(self, f: str, kind: Kind, key: str, value: object) -> None:
        process = self._name if f == "session" else f"{self._name}-{self._turns}"
        self._journal.record(
            Record(process=process, type=kind, f=f, key=key, value=raw(value), time_ns=now_ns())
        )
        self._journal.sync()


@dataclasses.dataclass(frozen=True)
class Turn:
    """A turn as it was: `told` None when it was cut."""

    piece: str
    begin_ns: int
    end_ns: int | None
    told: TurnTold | None

    @property
    def took_s(self) -> float | None:
        """How long it took; None when it was cut."""
        return None if self.end_ns is None else (self.end_ns - self.begin_ns) / 1e9


def turns(history: History) -> tuple[Turn, ...]:
    """All turns, in the order in which they began. Raises HistoryError."""
    found = [
        Turn(
            piece=operation.key or "",
            begin_ns=operation.invoke.time_ns,
            end_ns=None if operation.completion is None else operation.completion.time_ns,
            told=None if operation.completion is None else value_of(operation.completion, TurnTold),
        )
        for operation in history.of("turn")
    ]
    return tuple(sorted(found, key=lambda turn: turn.begin_ns))


def counted(history: History) -> History:
    """The history without the ends of trials that came after their session had been stopped.

    A trial that is cancelled may still tell its end, on the way out; whoever reads this sees that it was not
    brought to its end, as after a kill. Anything but trials stays as it is.
    """
    sessions = sorted(history.of("session"), key=lambda operation: operation.invoke.time_ns)
    if not any(operation.kind is Kind.FAIL for operation in sessions):
        return history
    begins = [operation.invoke.time_ns for operation in sessions]

    def cut(operation: Operation) -> bool:
        at = bisect_right(begins, operation.invoke.time_ns) - 1
        session = sessions[at] if at >= 0 else None
        if session is None or session.completion is None or session.kind is not Kind.FAIL:
            return False
        return operation.completion is not None and operation.completion.time_ns > session.completion.time_ns

    return dataclasses.replace(
        history,
        operations=tuple(
            Operation(operation.invoke, None) if operation.f == "trial" and cut(operation) else operation
            for operation in history.operations
        ),
    )


def last_told(history: History) -> dict[str, TurnTold]:
    """By piece, what its last turn told that came to its end."""
    return {turn.piece: turn.told for turn in turns(history) if turn.told is not None}


def scenario_results(
    planned: Sequence[PlannedScenario], history: History, again: Mapping[str, Again] = {}
) -> tuple[ScenarioResult, ...]:
    """What each planned scenario came to, in the plan's order; those that were not run say why.

    `again`: what their raw records say now, which counts in place of what the night told.
    """
    told: dict[str, list[Turn]] = {}
    for turn in turns(history):
        told.setdefault(turn.piece, []).append(turn)
    reason = _why_not(history)
    return tuple(_scenario(one, told.get(one.name, []), reason, again.get(one.name)) for one in planned)


def _scenario(
    planned: PlannedScenario, attempts: Sequence[Turn], not_run: str, again: Again | None
) -> ScenarioResult:
    bare = ScenarioResult(
        name=planned.name, title=planned.title, rows=planned.rows, expected=planned.expected
    )
    cut = sum(turn.told is None for turn in attempts)
    last = next((turn for turn in reversed(attempts) if turn.told is not None), None)
    if last is None or last.told is None:
        why = f"it was cut off {cut} times, so it does not count; {not_run}" if cut else not_run
        return msgspec.structs.replace(bare, why=(why,), voids=cut)
    results = last.told.results
    if not results:
        why = f"the harness broke: {last.told.why or 'it told no result'}"
        return msgspec.structs.replace(
            bare, verdict=Verdict.INCONCLUSIVE, why=(why,), voids=cut, took_s=last.took_s
        )
    if again is not None and again.why:
        return msgspec.structs.replace(
            bare,
            verdict=Verdict.INCONCLUSIVE,
            why=(again.why,),
            voids=cut,
            took_s=last.took_s,
            folder=last.told.folder,
        )
    if again is not None:
        results = again.results
    several = len(results) > 1
    return msgspec.structs.replace(
        bare,
        verdict=worst(results),
        why=tuple(f"{r.scenario}: {line}" if several else line for r in results for line in r.why),
        faults=tuple(fault for r in results for fault in r.faults),
        looks=tuple(
            msgspec.structs.replace(look, what=f"{r.scenario}: {look.what}") if several else look
            for r in results
            for look in r.looks
        ),
        load=tuple(line for r in results for line in r.load),
        voids=cut,
        took_s=last.took_s,
        folder=last.told.folder,
    )


def judged_otherwise(history: History, again: Mapping[str, Again]) -> tuple[Deviation, ...]:
    """Scenarios whose raw records are not here, and those of which they say something else than the night."""
    told = {name: one for name, one in last_told(history).items() if one.results}
    found = []
    absent = [name for name in told if name not in again]
    if absent:
        found.append(
            Deviation(
                what=f"scenarios that were not judged again: {', '.join(absent)}",
                why="their raw records are not in the run's folder",
                effect="they stand as the night told them",
            )
        )
    for name, one in again.items():
        before = worst(told[name].results)
        after = worst(one.results)
        if after is not before:
            found.append(
                Deviation(
                    what=f"{name} is {after.value}; the night told {before.value}",
                    why=one.why or "its raw records were judged again",
                    effect="what the raw records say counts",
                )
            )
    return tuple(found)


def told_why(
    results: Sequence[CriterionResult], pieces: Sequence[Piece], history: History
) -> tuple[CriterionResult, ...]:
    """The results; those that are open because their campaigns were not brought to their end say so."""
    ended = {turn.piece for turn in turns(history) if turn.told is not None and turn.told.done}
    open_ids = {
        name
        for piece in pieces
        if piece.kind is PieceKind.CAMPAIGN and piece.name not in ended
        for name in piece.tells
    }
    reason = _why_not(history)
    told = []
    for result in results:
        if result.id in open_ids and result.verdict is Verdict.NOT_MEASURED:
            told.append(msgspec.structs.replace(result, reason=reason))
        elif result.id in open_ids and result.verdict in {Verdict.INCONCLUSIVE, Verdict.VOID}:
            why = f"{result.reason}; some of its trials were {reason}" if result.reason else reason
            told.append(msgspec.structs.replace(result, reason=why))
        else:
            told.append(result)
    return tuple(told)


def _why_not(history: History) -> str:
    """Why what was not run was not run, by how the last session ended."""
    sessions = sorted(history.of("session"), key=lambda operation: operation.invoke.time_ns)
    if not sessions or sessions[-1].completion is None:
        return "not run: the run was cut off before it"
    last = value_of(sessions[-1].completion, SessionTold)
    if sessions[-1].kind is Kind.FAIL:
        return f"not run: the run was stopped before it ({last.why})"
    if last.why == BUDGET:
        return f"not run: it did not fit into what was left of the budget of {last.budget_s / 60:g} min"
    return f"not run: {last.why}"


def deviations(history: History) -> tuple[Deviation, ...]:
    """How often the night was stopped and went on, what was cut, what broke, what the budget left."""
    sessions = sorted(history.of("session"), key=lambda operation: operation.invoke.time_ns)
    if not sessions:
        return ()
    found = []
    if len(sessions) > 1:
        found.append(
            Deviation(
                what=f"the run went on {_times(len(sessions) - 1)}, in {len(sessions)} sessions",
                why="; ".join(_end_of(operation) for operation in sessions[:-1]),
                effect="what was finished before counts; between sessions nothing was measured",
            )
        )
    if sessions[-1].kind is not Kind.OK or _end_of(sessions[-1]) != ALL_DONE:
        found.append(
            Deviation(
                what="not all pieces of the plan came to their end",
                why=_end_of(sessions[-1]),
                effect="what is missing is not measured or not decided; `--resume` goes on with it",
            )
        )
    all_turns = turns(history)
    cut = Counter(turn.piece for turn in all_turns if turn.told is None)
    if cut:
        found.append(
            Deviation(
                what=f"turns that were cut: {', '.join(f'{name} ({n})' for name, n in cut.items())}",
                why="the run was stopped or killed meanwhile",
                effect="trials and scenarios that were under way are void and were to be repeated",
            )
        )
    found += [
        Deviation(
            what=f"a turn of {turn.piece} broke",
            why=turn.told.why,
            effect="what it had told before counts; what was under way does not",
        )
        for turn in all_turns
        if turn.told is not None and turn.told.why
    ]
    return tuple(found)


def _end_of(session: Operation) -> str:
    if session.completion is None:
        return "it was cut off without a word"
    return value_of(session.completion, SessionTold).why


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def read_log(run_folder: Path) -> History:
    """The sessions and turns of a run, and the trials of its campaigns, without what probes and load wrote.

    Raises HistoryError.
    """
    try:
        return History.read(run_folder, leave_out="[lp]*.jsonl")
    except OSError as error:
        raise HistoryError(str(run_folder), f"cannot be read ({error.strerror})", "mend it") from None
