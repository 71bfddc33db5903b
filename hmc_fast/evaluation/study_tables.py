"""All tables of a study, in the order of the page, and why some are missing."""

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.literature import literature_table
from hmc_fast.evaluation.paper_against_itself import paper_against_itself
from hmc_fast.evaluation.report.study_wording import budget
from hmc_fast.evaluation.study_comparisons import model_pairs
from hmc_fast.evaluation.study_leak_tables import leak_difference_table, leak_table
from hmc_fast.evaluation.study_metric_tables import (
    accuracy_table,
    auc_table,
    class_table,
    macro_table,
)
from hmc_fast.evaluation.study_patient_tables import (
    calibration_table,
    delong_tables,
    exact_table,
    pair_table,
    unit_table,
)
from hmc_fast.evaluation.study_rank_tables import (
    corrected_t,
    critical_difference_table,
    friedman_table,
    nemenyi_table,
    pairwise_rank_table,
    power_table,
    rank_table,
)
from hmc_fast.evaluation.study_run_tables import (
    complexity_table,
    fold_table,
    gamma_table,
    localisation_table,
    training_table,
)
from hmc_fast.evaluation.study_runs import RankSet, Study, fold_scores, rank_sets
from hmc_fast.evaluation.study_table import StudyTable, is_paper
from hmc_fast.sentences import counted

Made = StudyTable | str  # or the sentence that says why there is none


def all_tables(study: Study) -> list[StudyTable]:
    """The tables that make sense for this study, in the order of the page.

    Raises ValueError: no run, or runs that have not predicted the same images.
    """
    made = [table for table in _everything(study) if isinstance(table, StudyTable)]
    note = _paper_note(study)
    return [
        table._replace(notes=[*table.notes, note]) if _has_both(table) else table for table in made
    ]


def left_out_tables(study: Study) -> list[str]:
    """A sentence for each table that this study cannot have."""
    return list(dict.fromkeys(made for made in _everything(study) if isinstance(made, str)))


def _has_both(table: StudyTable) -> bool:
    """Whether columns of the paper stand beside ours."""
    return not table.all_paper and any(map(is_paper, table.header))


def _paper_note(study: Study) -> str:
    """What the paper's figures and this study's are of."""
    dataset = study["dataset"]
    images = counted(dataset["images"], "image")
    other = "" if dataset["mias"] else f" {paper.OTHER_DATA}"
    return f"{paper.SETTING}; ours are of {images} of {dataset['name']}: {budget(study)}.{other}"


def _everything(study: Study) -> list[Made]:
    if not study["runs"]:
        raise ValueError("a study needs one finished run or more: got none")
    return [
        complexity_table(study),
        accuracy_table(study),
        macro_table(study),
        auc_table(study),
        localisation_table(study),
        literature_table(),
        *_of_pairs(study),
        leak_table(study),
        leak_difference_table(study),
        *_of_ranks(study),
        *delong_tables(study),
        exact_table(study),
        unit_table(study),
        calibration_table(study),
        class_table(study),
        gamma_table(study),
        fold_table(study),
        training_table(study),
        paper_against_itself(),
    ]


def _of_pairs(study: Study) -> list[Made]:
    pairs = model_pairs(study)
    if not pairs:
        return ["Differences on the same patients: there is one model only."]
    return [pair_table(pairs, first=True), pair_table(pairs, first=False)]


def _of_ranks(study: Study) -> list[Made]:
    sets = rank_sets(study)
    if not sets:
        return ["Tables 8 and 9 (ranks): there is one model only."]
    return [made for models in sets for made in _of_rank_set(models)]


def _of_rank_set(models: RankSet) -> list[Made]:
    if fold_scores(models.runs, "accuracy") is None:
        return [f"Tables 8 and 9 (ranks){models.title}: no fold is finished in all runs."]
    return [
        nemenyi_table(models),
        pairwise_rank_table(models),
        rank_table(models),
        friedman_table(models),
        critical_difference_table(models),
        power_table(models),
        corrected_t(models),
    ]
