"""The tables that the study's page makes itself: headline, settings, machine, files, checklists."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hmc_fast.evaluation.checklists import ITEMS, SOURCES, checklist
from hmc_fast.evaluation.report.study_cells import ALWAYS
from hmc_fast.evaluation.report.tables import settings_table
from hmc_fast.evaluation.report.wording import ROUNDING, percent
from hmc_fast.evaluation.study_table import StudyTable

HEADLINE = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auc": "AUC"}
ENDS = ("low", "high")
PLACES = ("out", "resume", "config")  # settings that say where a study lies, not what it is
OF_A_RUN = ("variant", "out")  # what its name and folder say
# what holds seconds, dates or the folder of the study, and so another sum after every run
WITH_TIMES = ("history.csv", "metrics.json", "env.json", "config.json", "study.json",
              "report.html", "explain.csv", "latency.json")  # fmt: skip


class Made(NamedTuple):
    """A table and the numbers of its rows that may differ between runs of the same settings."""

    table: StudyTable
    varying: frozenset[int] = frozenset()


def headline(runs: Sequence[Mapping[str, Any]]) -> StudyTable:
    """Each run's pooled figures with their intervals, and what the largest class alone gives."""
    metrics = runs[0]["metrics"]
    level = percent(metrics["pooled"]["bootstrap"]["level"])
    rows: list[list[Any]] = []
    for run in runs:
        pooled = run["metrics"]["pooled"]
        rows.append([run["name"]])
        for metric in HEADLINE:
            rows[-1] += [pooled[metric], *(pooled["intervals"][metric] or (None, None))]
    majority = metrics["majority"]
    alone = [[majority[metric], None, None] for metric in HEADLINE]
    rows.append([f"{ALWAYS}“{majority['class']}”", *(value for three in alone for value in three)])
    header = ["model"]
    for name in HEADLINE.values():
        header += [name, *(f"{name.split()[0]} {end}" for end in ENDS)]
    notes = [
        f"Out-of-fold predictions, pooled; low and high are the ends of {level} intervals, "
        f"{metrics['pooled']['bootstrap']['resamples']} draws of whole patients with the trained "
        "models held fixed. Files: metrics.json and predictions.csv in the folder of each run."
    ]
    if any(_without_width(run["metrics"]["pooled"]["intervals"]) for run in runs):
        notes.append(
            "An interval without width comes from predictions without variation, not from "
            "certainty: see exact_intervals."
        )
    return StudyTable("headline", "Every model in three figures", header, rows, notes)


def _without_width(intervals: Mapping[str, Sequence[float] | None]) -> bool:
    ends = [found for metric in HEADLINE if (found := intervals[metric])]
    return any(high - low <= ROUNDING for low, high in ends)


def made_tables(study: Mapping[str, Any]) -> list[Made]:
    """How it was made: the study's settings, those of its runs, and the machine."""
    runs = [*study["runs"], *study["leak"]]
    return [
        _settings("made-study", "Settings of the study (study.json)", study["config"]),
        _settings("made-runs", "Settings of the runs (config.json)", shared_settings(runs)),
        _settings("made-machine", "Machine and versions (env.json)", shared_machine(runs)),
    ]


def shared_settings(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Every setting of the runs: its value where all have the same, else each run's in words."""
    found = _shared({run["name"]: run["config"] for run in runs})
    return {name: value for name, value in found.items() if name not in OF_A_RUN}


def shared_machine(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """As `shared_settings`, of env.json: a study may go on elsewhere, or with another commit. What
    is nested is named with dots."""
    tables = {run["name"]: settings_table("", run["environment"]).rows for run in runs}
    return _shared({run: {row[0]: row[1] for row in rows} for run, rows in tables.items()})


def _shared(of_run: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """{name: its value, or each run's in words where they differ}."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for values in of_run.values() for name in values):
        values = {run: own.get(name) for run, own in of_run.items()}
        first, *others = values.values()
        each = "; ".join(f"{run}: {value}" for run, value in values.items())
        found[name] = first if all(value == first for value in others) else each
    return found


def files_table(files: Mapping[str, str], with_times: frozenset[str]) -> Made:
    """Every file of the study with its sum; with_times: further files that hold times."""
    rows = [[path, files[path]] for path in sorted(files)]
    varying = frozenset(
        place
        for place, (path, _) in enumerate(rows)
        if path in with_times or path.rsplit("/", 1)[-1] in WITH_TIMES
    )
    return Made(StudyTable("made-files", "Files", ["file", "SHA-256"], rows, []), varying)


def checklist_tables(study: Mapping[str, Any]) -> list[StudyTable]:
    """A table a checklist."""
    lines = checklist(study)
    tables = []
    for name, source in SOURCES.items():
        rows = [[line.item, line.topic, line.answer] for line in lines if line.checklist == name]
        covered = len({line[0].rstrip("abcdefg") for line in rows})
        notes = [
            f"{covered} of the {ITEMS[name]} items of the published list, in {len(rows)} lines: "
            f"{source}."
        ]
        anchor = f"checklist-{name.split()[0].split('+')[0].lower()}"
        tables.append(StudyTable(anchor, name, ["item", "topic", "this study"], rows, notes))
    return tables


def _settings(name: str, title: str, values: Mapping[str, Any]) -> Made:
    rows = [list(row) for row in settings_table(title, values).rows]
    varying = frozenset(
        place for place, (setting, _) in enumerate(rows) if setting.split(".")[0] in PLACES
    )
    return Made(StudyTable(name, title, ["setting", "value"], rows, []), varying)
