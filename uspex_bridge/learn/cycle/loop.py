"""Driving the loop: what was done is in the journal, and whatever was not is done next.

Every step is a command that may be repeated: killed at any moment, the loop begins the same step again. The journal
(``cycle.jsonl``) only grows, and says of every decision what it rested on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from uspex_bridge.base import jsonl
from uspex_bridge.base.errors import CalculationError, Interrupted, OutputError
from uspex_bridge.base.locks import held
from uspex_bridge.base.words import counted
from uspex_bridge.learn.cycle.promotion import Evidence, Gates, decide
from uspex_bridge.learn.cycle.settings import CycleSettings, read_cycle_settings
from uspex_bridge.learn.cycle.steps import (
    CycleStep,
    Standing,
    current,
    evaluation,
    folder_of,
    start_of,
    steps_of,
    training,
)
from uspex_bridge.learn.data.dataset import Dataset, is_dataset

#: Name of the journal in a cycle's folder.
JOURNAL = "cycle.jsonl"
#: Seconds that a step gets to end after a signal.
_PATIENCE = 60.0


@dataclass
class State:
    """Where the loop stands.

    Attributes:
        labelled: whether there were labels before it began; None before that.
        number: of the present cycle.
        done: steps of it that are done.
        ended: why the loop is over, empty while it is not.
        stage: which of the searches, 0 the first; begins: whether it is new in this cycle.
        since: when the cycle before ended, empty at the beginning.
    """

    labelled: bool | None = None
    number: int = 0
    stage: int = 0
    begins: bool = False
    since: str = ""
    done: set[str] = field(default_factory=set)
    ended: str = ""


def state_of(entries: list[dict[str, Any]]) -> State:
    """Read where a loop stands from its journal."""
    state = State()
    for entry in entries:
        event = entry["event"]
        if event == "opened":
            state.labelled = entry["labelled"]
        elif event == "done":
            state.done.add(entry["step"])
        elif event == "finished":
            state.number, state.done = entry["cycle"] + 1, set()
            state.begins, state.since = False, str(entry.get("time", ""))[:19]
        elif event == "stage":
            state.stage, state.begins = entry["stage"], True
        elif event in ("ended", "reopened"):
            state.ended = entry.get("detail", "") if event == "ended" else ""
    return state


#: What events that decide how it goes on must say.
_SAID: dict[str, dict[str, Any]] = {
    "opened": {"labelled": bool},
    "done": {"cycle": int, "step": str, "facts": dict},
    "finished": {"cycle": int},
    "stage": {"stage": int},
    "promoted": {"cycle": int, "model": str, "promote": bool, "reasons": list, "held_out": dict, "newest": dict},
}
_SAID["kept"] = _SAID["promoted"]
#: What the facts of a step that is done may say, by step: what is read again from the journal.
_FACTS: dict[str, dict[str, Any]] = {
    "screen": {"structures": int, "to_compute": int, "mean": dict},
    "select": {"chosen": int},
    "collect": {"added": dict, "refused": int},
}
_ALWAYS: dict[str, Any] = {"cycle": int, "step": str, "detail": str, "seconds": (int, float)}


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Return what a cycle's journal holds, nothing where there is none; what no loop has written is passed over."""
    path = folder / JOURNAL
    return [entry for entry in jsonl.read(path) if _is_event(entry)] if path.is_file() else []


def _is_event(entry: dict[str, Any]) -> bool:
    event = entry.get("event")
    if not isinstance(event, str) or not _has(entry, _within(entry, _ALWAYS) | _SAID.get(event, {})):
        return False
    return event != "done" or _has(entry["facts"], _within(entry["facts"], _FACTS.get(entry["step"], {})))


def _within(fields: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    return {name: kind for name, kind in kinds.items() if name in fields}


def _has(fields: dict[str, Any], kinds: dict[str, Any]) -> bool:
    return all(isinstance(fields.get(name), kind) for name, kind in kinds.items())


class Loop:
    """The loop in a folder that holds ``cycle.toml``.

    Args:
        folder: of the loop; all commands run there.
        tell: called with a line for the user whenever something begins or ends.

    Raises:
        ConfigError: ``cycle.toml`` is missing or wrong.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda line: None) -> None:
        self.folder = folder
        self.tell = tell
        self.settings: CycleSettings = read_cycle_settings(folder)

    @property
    def state(self) -> State:
        """Where it stands."""
        return state_of(read_journal(self.folder))

    def missing(self) -> list[CycleStep]:
        """Return the steps of the present cycle that are still to be done."""
        state = self.state
        return [] if state.ended else self._missing(state)

    def _missing(self, state: State) -> list[CycleStep]:
        labelled = self._has_labels() if state.labelled is None else state.labelled
        now = Standing(state.number, labelled, self._held_out(), state.stage, state.begins, state.since)
        return [step for step in steps_of(self.settings, now) if step.name not in state.done]

    def run(self) -> str:
        """Go on until the loop is over or has to wait; return which, in words.

        Raises:
            CalculationError: a step failed; nothing after it was done.
            BusyError: another process drives this loop, or a step of it is still at work.
            Interrupted: a signal came.
            OutputError: the journal does not keep what is done.
        """
        with self._alone(), _signals():
            if self.state.labelled is None:
                self._note("opened", labelled=self._has_labels())
            while not (state := self.state).ended:
                if not (missing := self._missing(state)):
                    last = state.number >= self.settings.stop.cycles
                    over = f"{counted(state.number, 'cycle')} done" if last else ""
                    self._note("finished", cycle=state.number, stage=state.stage, over=over)
                elif waiting := self._do(state.number, missing[0]):
                    return waiting
                elif missing[0].name not in self.state.done:  # it would be done without end
                    raise OutputError(
                        f"{self.folder / JOURNAL}: the step '{missing[0].name}' is finished but cannot be read back"
                    )
            return state.ended

    def reopen(self) -> None:
        """Let a loop that is over go on, after its settings or its search have changed."""
        if self.state.ended:
            self._note("reopened")

    def _do(self, number: int, step: CycleStep) -> str:
        """Do a step; return what it waits for, if it does."""
        began, over = time.monotonic(), ""
        if step.kind == "promote":
            facts = self._promote(number)
        elif step.kind == "shell":
            self._shell(number, step)
            facts = {}
        else:
            document = self._bridge(number, step)
            if step.kind == "labels" and (left := _unfinished(document["labels"])):
                detail = self._awaited(number, left)
                self._note("waiting", cycle=number, step=step.name, detail=detail)
                return f"cycle {number} waits for labels: {detail}"
            facts = brief(document)
            if step.name == "collect":
                self._enough(number, document)
            elif step.name == "screen" and self._converged(facts):
                over = f"converged: {facts['to_compute']} of {facts['structures']} structures to compute"
                if (stage := self.state.stage + 1) <= len(self.settings.search.then):
                    self._next_search(number, step, facts, stage, over, began)
                    return ""
        self._note("done", cycle=number, step=step.name, seconds=_since(began), facts=facts, over=over)
        return ""

    def _converged(self, facts: dict[str, Any]) -> bool:
        """Tell whether few enough structures are left to compute, and the searches have not lost too many."""
        return bool(facts["to_compute"] <= self.settings.stop.flagged and not facts.get("retrain"))

    def _next_search(
        self, number: int, step: CycleStep, facts: dict[str, Any], stage: int, why: str, began: float
    ) -> None:
        """End this cycle and go on with the search at the next pressure; all in one, or a kill would part them."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        places = ", ".join(self.settings.search.at(stage).places)
        jsonl.append(
            self.folder / JOURNAL,
            {
                "time": now,
                "event": "done",
                "cycle": number,
                "step": step.name,
                "seconds": _since(began),
                "facts": facts,
            },
            {"time": now, "event": "finished", "cycle": number, "stage": stage - 1},
            {"time": now, "event": "stage", "stage": stage, "detail": why},
        )
        self.tell(f"cycle {number}: {why}; on to {places}")

    def _bridge(self, number: int, step: CycleStep) -> Any:
        """Run a command of uspex-bridge and return what it printed as JSON."""
        command = [sys.executable, "-m", "uspex_bridge.cli.main", *step.words]
        text = self._call(number, step, command, self.folder)
        return json.loads(text) if "--json" in step.words else None

    def _shell(self, number: int, step: CycleStep) -> None:
        if step.words:
            self._call(number, step, ["sh", "-c", step.words[0]], self.folder / step.folder)

    def _call(self, number: int, step: CycleStep, command: list[str], where: Path) -> str:
        logs = self.folder / folder_of(number) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        stem = step.name.replace(" ", "-")
        out, err = logs / f"{stem}.out", logs / f"{stem}.log"
        self._note("began", cycle=number, step=step.name, command=str(step))
        self.tell(f"cycle {number}: {step}")
        environment = {**os.environ, "USPEX_BRIDGE_CYCLE": str(number)}
        began = time.monotonic()
        with out.open("w") as stdout, err.open("a") as stderr:
            process = subprocess.Popen(
                command, cwd=where, stdout=stdout, stderr=stderr, env=environment, pass_fds=(self._lock,)
            )
            code = _wait(process)
        if code:
            said = [line for line in err.read_text(errors="replace").splitlines() if line.strip()]
            last = said[-1] if said else "it said nothing"
            self._note("failed", cycle=number, step=step.name, exit=code, seconds=_since(began), detail=last)
            if code == Interrupted.exit_code:
                raise Interrupted(f"cycle {number}, {step.name}: {last}; run again to continue")
            raise CalculationError(
                f"cycle {number}, {step.name}: exit code {code}: {last} (see {err}); correct this and run again: "
                "finished steps are kept"
            )
        return out.read_text()

    def _awaited(self, number: int, left: str) -> str:
        """Say what labels are waited for, and what there is to do about it."""
        here, label = self.folder / folder_of(number), self.settings.label
        detail = f"{left} in {here / 'labels'}"
        if label.how == "submit":
            answer = here / "logs" / "compute.out"
            said = answer.read_text(errors="replace").splitlines() if answer.is_file() else []
            detail += f" ({said[-1] if said else label.command}); submit jobs again that are no longer in the queue"
        return f"{detail}; run again after they have finished"

    def _enough(self, number: int, document: dict[str, Any]) -> None:
        states = document["states"]
        total, usable = sum(states.values()), states.get("done", 0)
        if usable < self.settings.label.accept * total:
            detail = f"only {usable} of {total} labels can be used"
            self._note("failed", cycle=number, step="collect", detail=detail)
            raise CalculationError(
                f"cycle {number}: {detail}; `uspex-bridge label status {self.folder / folder_of(number)}/labels` says "
                "why. Correct these runs and call again, or lower accept in [label]"
            )

    def _promote(self, number: int) -> dict[str, Any]:
        """Judge every new model and move ``current`` to those that are taken."""
        taken, gates = {}, self.settings.promote
        for name in self.settings.models:
            start = start_of(self.settings, name)
            verdict = decide(
                Evidence(
                    evaluation(self.folder, number, "held-out"),
                    evaluation(self.folder, number, "newest"),
                    evaluation(self.folder, number, "foreign") if gates.foreign and start else None,
                ),
                training(number, name),
                current(name) if number else None,
                Gates(gates.tolerance, gates.forgetting, start),
            )
            if verdict.promote:
                self._point(name, number)
            event = "promoted" if verdict.promote else "kept"
            self._note(event, cycle=number, model=name, **asdict(verdict))
            self.tell(f"cycle {number}: {name} {event}: {'; '.join(verdict.reasons)}")
            taken[name] = verdict.promote
        return taken

    def _point(self, name: str, number: int) -> None:
        link = self.folder / current(name)
        draft = link.with_name(".new")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            draft.symlink_to(Path("../..") / training(number, name))
            draft.replace(link)
        except OSError as error:
            raise OutputError(f"{link}: cannot be moved: {error.strerror}; nothing has changed") from error

    def _has_labels(self) -> bool:
        return is_dataset(self.folder / self.settings.dataset)

    def _held_out(self) -> str:
        if not self._has_labels():
            return "test"
        return "test" if Dataset.open(self.folder / self.settings.dataset).select("test") else "valid"

    def _note(self, event: str, *, over: str = "", **more: Any) -> None:
        """Write an event into the journal; why the loop is ``over`` with it goes with it, or a kill would part them."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entries = [{"time": now, "event": event, **more}]
        if over:
            entries.append({"time": now, "event": "ended", "cycle": more["cycle"], "detail": over})
        jsonl.append(self.folder / JOURNAL, *entries)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the loop's lock, which steps inherit: it is free when the last of them has ended."""
        busy = f"{self.folder}: this loop, or one of its steps, is running already"
        with held(self.folder / ".cycle.lock", busy) as lock:
            self._lock = lock.fileno()
            yield


def brief(document: Any) -> dict[str, Any]:
    """Return the numbers and words of a command's answer; of lists, how long they are."""
    if not isinstance(document, dict):
        return {}
    facts: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            facts[key] = {k: v for k, v in value.items() if not isinstance(v, (dict, list))}
        else:
            facts[key] = len(value) if isinstance(value, list) else value
    return facts


def _since(began: float) -> float:
    """Return the seconds since a reading of the monotonic clock."""
    return round(time.monotonic() - began, 1)


def _unfinished(rows: list[dict[str, Any]]) -> str:
    """Return how many labels are not computed yet, in words; empty where all are."""
    counts = {state: sum(row["state"] == state for row in rows) for state in ("prepared", "running")}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT end the loop in order."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}; run again to continue")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return a step's exit code; whatever ends the waiting ends the step too."""
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
