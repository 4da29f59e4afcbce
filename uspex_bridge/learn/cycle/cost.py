"""What a loop has cost, and what its searches would have cost by DFT alone (arXiv:2606.30870, Sec. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uspex_bridge.base.words import counted
from uspex_bridge.call import record_reading
from uspex_bridge.learn.cycle.loop import read_journal
from uspex_bridge.learn.cycle.settings import CycleSettings
from uspex_bridge.learn.data.dataset import Dataset, is_dataset
from uspex_bridge.results.reading.failures import records_of


@dataclass(frozen=True)
class Cost:
    """The bill.

    Attributes:
        labels: DFT calculations that became labels, and those that did not.
        core_hours: of those that say it; ``timed`` is how many do.
        evaluations: of models in the searches, one per ionic step: what DFT would have had to do.
        candidates: relaxed in the searches.
        training_hours: wall time of all trainings.
    """

    labels: int
    core_hours: float
    timed: int
    evaluations: int
    candidates: int
    training_hours: float

    @property
    def saved(self) -> float | None:
        """Part of the DFT calculations of a search by DFT alone that were not needed; None without a record."""
        return 1.0 - self.labels / self.evaluations if self.evaluations > self.labels else None

    def __str__(self) -> str:
        said = f"cost: {counted(self.labels, 'DFT calculation')}"
        if self.timed:
            said += f", {self.core_hours:.3g} core-hours ({self.timed} with known times)"
        said += f"; {self.training_hours:.3g} h of training"
        if self.evaluations:
            said += f"; {self.evaluations:,} model evaluations for {self.candidates:,} candidates"
        if self.saved is not None and self.labels:
            said += (
                f": {self.evaluations / self.labels:,.0f} per DFT calculation; a search by DFT alone needs all of "
                f"them: {100 * self.saved:.2f} % are saved"
            )
        return said


def cost_of(folder: Path, settings: CycleSettings) -> Cost:
    """Add up what the journal, the dataset and the searches' records say.

    Args:
        folder: of the loop.
        settings: of the loop.
    """
    journal = read_journal(folder)
    done = [entry for entry in journal if entry["event"] == "done"]
    collected = [entry["facts"] for entry in done if entry["step"] == "collect"]
    labels = sum(sum(facts.get("added", {}).values()) + facts.get("refused", 0) for facts in collected)
    dataset = folder / settings.dataset
    hours = []
    if is_dataset(dataset):
        known = Dataset.open(dataset, verify=False).labels.values()
        hours = [float(label.provenance["core_hours"]) for label in known if "core_hours" in label.provenance]
    trained = sum(entry.get("seconds", 0.0) for entry in done if entry["step"].startswith("train "))
    places = [
        str(folder / p) for stage in range(1 + len(settings.search.then)) for p in settings.search.at(stage).places
    ]
    evaluations = candidates = 0
    for record in records_of(places):
        for line in record_reading.read(record):
            evaluations += sum(stage.get("evaluations", 0) for stage in line.get("stages") or ())
            candidates += 1
    return Cost(labels, sum(hours), len(hours), evaluations, candidates, trained / 3600)
