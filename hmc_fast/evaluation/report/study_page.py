"""The study's report.html: what was run and found, every table and figure, how it was made, and the
checklists, on one page that needs nothing beside it."""

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hmc_fast.evaluation import figures as pictures
from hmc_fast.evaluation.report import study_sections, study_wording
from hmc_fast.evaluation.report.made_tables import (
    checklist_tables,
    files_table,
    headline,
    made_tables,
)
from hmc_fast.evaluation.report.study_cells import PageTable, page_table
from hmc_fast.evaluation.study_figures import StudyFigure
from hmc_fast.evaluation.study_table import StudyTable, is_paper, varies
from hmc_fast.files import write_bytes

PHONE = 480  # CSS pixels: a wider figure scrolls in its box on a phone


class Picture(NamedTuple):
    """A figure on the page: `text` says what is drawn, `uri` holds the pixels, `size` is in CSS
    pixels, `file` has the numbers."""

    name: str
    anchor: str
    title: str
    text: str
    alt: str
    uri: str
    size: tuple[int, int]
    file: str
    wide: bool
    varies: bool


def write_study_report(
    path: Path,
    study: Mapping[str, Any],
    tables: Sequence[StudyTable],
    figures: Mapping[str, StudyFigure],
    findings: Sequence[str],
    left_out: Sequence[str] = (),
) -> None:
    """Write the page of a study to `path`: pictures, styles and one script for sorting inside.

    study: as hmc_fast/study/collect.py makes it, with a run or more; tables: those in tables/;
    figures: by the names that they have in figures/; findings: sentences, in order;
    left_out: sentences on what this study has no table of. Text may hold anything: it is escaped.

    Elements with the attribute data-varies are the only ones that may differ between two runs of
    the same settings.
    """
    folder = Path(__file__).parent
    templates = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (folder / "sort.js.j2").read_text()
    page = templates.get_template("study.html.j2").render(
        **_context(study, tables, figures),
        findings=findings,
        left_out=left_out,
        script=script,
        script_hash=_policy_hash(script),
    )
    write_bytes(path, page.encode(errors="replace"))


def _context(
    study: Mapping[str, Any], tables: Sequence[StudyTable], figures: Mapping[str, StudyFigure]
) -> dict[str, Any]:
    """Everything that the template shows but the findings."""
    anchors = {file: f"file-{place}" for place, file in enumerate(sorted(study["files"]))}
    shown = [page_table(table, f"tables/{table.name}.csv") for table in tables]
    drawn = [_picture(name, figure) for name, figure in figures.items()]
    with_times = {f"tables/{table.name}.csv" for table in tables if any(map(varies, table.header))}
    with_times |= {picture.file for picture in drawn if picture.varies}
    return {
        "title": study_wording.title(study),
        "facts": study_wording.facts(study),
        "took": study_wording.took(study),
        "warnings": study["dataset"]["warnings"],
        "headline": page_table(headline(study["runs"])),
        "has_paper": any(table.all_paper or any(map(is_paper, table.header)) for table in tables),
        "shared": _shared_notes(tables),
        "sections": study_sections.filled(shown, drawn),
        "anchors": anchors,
        "commands": study["commands"],
        "made": _made(study, frozenset(with_times), list(anchors.values())),
        "checklists": [page_table(table) for table in checklist_tables(study)],
    }


def _shared_notes(tables: Sequence[StudyTable]) -> dict[str, str]:
    """The notes that stand under more than one table, and the anchor where the page has them."""
    counts = Counter(note for table in tables for note in dict.fromkeys(table.notes))
    shared = [note for note, times in counts.items() if times > 1]
    return {note: f"note-{place}" for place, note in enumerate(shared, start=1)}


def _made(
    study: Mapping[str, Any], with_times: frozenset[str], anchors: Sequence[str]
) -> list[PageTable]:
    """Settings, machine and files; with_times: the tables and figures that hold times."""
    settings = [page_table(table, varying=rows) for table, rows in made_tables(study)]
    files, rows = files_table(study["files"], with_times)
    return [*settings, page_table(files, anchors=anchors, varying=rows)]


def _picture(name: str, drawn: StudyFigure) -> Picture:
    title, text = study_sections.described(name)
    file = f"figures/{name}.csv"
    size = pictures.css_size(drawn.figure)
    return Picture(
        name=name,
        anchor=f"figure-{name}",
        title=title,
        text=text,
        alt=f"{text}. The numbers are in {file}.",
        uri=(pictures.jpeg_data_uri if "heatmaps" in name else pictures.png_data_uri)(drawn.figure),
        size=size,
        file=file,
        wide=size[0] > PHONE,
        varies=any(map(varies, drawn.header)),
    )


def _policy_hash(script: str) -> str:
    """What a content security policy calls this script, so that the page runs no other."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
