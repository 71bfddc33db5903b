"""What the paper prints against what follows from its own figures, computed here from them.

Nothing in it is measured by us: its left side is `paper`, its right side a consequence of it.
"""

from hmc_fast.evaluation import paper
from hmc_fast.evaluation.metrics import classification_metrics
from hmc_fast.evaluation.statistics import (
    critical_difference_beside_paper,
    friedman_test,
    nemenyi_test,
)
from hmc_fast.evaluation.study_runs import word
from hmc_fast.evaluation.study_table import StudyTable

FROM_MATRIX = ("accuracy", "precision", "sensitivity", "specificity", "f1")
FILMS_OF_A_PATIENT = 2


def paper_against_itself() -> StudyTable:
    """A row a claim: printed, what follows, from what."""
    rows = [*_matrix_rows(), _fold_row(), _auc_row(), _effect_row(), *_rank_rows()]
    return StudyTable(
        "paper_against_itself",
        "The paper against itself",
        ["figure", "printed", "follows from its other figures", "from what"],
        rows,
        [
            f"{paper.SOURCE}. Every figure here is the paper's or computed from the paper's by "
            "this program, but for two rows; none is a measurement of ours. The two: the "
            f"{paper.COHENS_D_OF_TABLE_3} of Cohen's d is quoted, not computed here; both figures "
            "of the AUC are printed, neither follows from the other."
        ],
        all_paper=True,
    )


def _matrix_rows() -> list[list[str]]:
    """Tables 3 to 5 against Figure 7's confusion matrix."""
    found = classification_metrics(*paper.figure_7_predictions(), paper.CLASSES)
    errors = round((1 - found["accuracy"]) * found["n"])
    return [
        [
            f"{word(metric)} of hmc",
            _percent(paper.RESULTS["hmc"][metric].mean),
            _percent(found[metric]),
            f"Figure 7: {errors} error in {found['n']} images",
        ]
        for metric in FROM_MATRIX
    ]


def _fold_row() -> list[str]:
    """Which accuracies a test fold of whole patients can have at all."""
    patients = paper.IMAGES // FILMS_OF_A_PATIENT
    sizes = [FILMS_OF_A_PATIENT * (patients // paper.FOLDS + extra) for extra in (0, 1)]
    low, high = paper.FOLD_ACCURACY
    return [
        "accuracy of the folds",
        f"{_percent(low)} to {_percent(high)}",
        f"100 %, or {_percent(1 - 1 / max(sizes))} and below",
        f"folds of whole patients: {sizes[0]} or {sizes[1]} test images, one error is "
        f"{100 / sizes[1]:.2f} or {100 / sizes[0]:.2f} points",
    ]


def _auc_row() -> list[str]:
    first, second = paper.RESULTS["hmc"]["auc"], paper.AUC_ELSEWHERE
    return [
        "AUC of hmc",
        f"{first.mean} ± {first.sd}",
        f"{second.mean:.4f} ± {second.sd:.4f}",
        "both are printed, the second one with ± 0.05 %",
    ]


def _effect_row() -> list[str]:
    return [
        "Cohen's d",
        str(paper.COHENS_D),
        str(paper.COHENS_D_OF_TABLE_3),
        "means and sds of Table 3, by hand: its other rows were not at hand to compute it here",
    ]


def _rank_rows() -> list[list[str]]:
    """The tests, from the mean ranks."""
    scores = paper.rank_scores()
    found, p_values = friedman_test(scores), nemenyi_test(scores)
    difference = critical_difference_beside_paper(len(paper.MODELS), paper.FOLDS)
    places = {name: place for place, name in enumerate(paper.MODELS)}
    apart = max(
        abs(p_values[places[a], places[b]] - printed) for (a, b), printed in paper.TABLE_8.items()
    )
    lead = paper.RANKS["resnet50"] - paper.RANKS["hierarchical"]
    p_value, limit = paper.nemenyi_p("hierarchical", "resnet50"), paper.CRITICAL_DIFFERENCE
    friedman = abs(found.p_value - paper.FRIEDMAN_P)
    return [
        [
            "Friedman's p",
            str(paper.FRIEDMAN_P),
            f"{found.p_value:.4f}, exact {found.exact_p_value:.1e}: {_agrees(friedman, 5e-4)}",
            f"mean ranks {', '.join(f'{rank:.2f}' for rank in paper.RANKS.values())}: χ² "
            f"{found.statistic:.3f}",
        ],
        [
            "Nemenyi's p of six pairs (Table 8)",
            f"{min(paper.TABLE_8.values())} to {max(paper.TABLE_8.values())}",
            f"the same within {apart:.5f}: {_agrees(apart, 5e-5)}",
            "mean ranks",
        ],
        [
            "q and critical difference",
            f"{paper.Q} and {paper.CRITICAL_DIFFERENCE}",
            f"{difference.q:.3f} and {difference.value:.3f}",
            f"{len(paper.MODELS)} models over {paper.FOLDS} folds: {paper.Q} is q for "
            f"{difference.paper_q_models} models",
        ],
        [
            "resnet50 against hierarchical",
            f"p = {p_value}: significant",
            f"{_significant(lead, limit)}: {lead:.2f} apart, {limit} is needed",
            f"mean ranks and the printed critical difference; with the right one, "
            f"{difference.value:.3f}, {lead:.2f} apart is "
            f"{_significant(lead, difference.value)}, as p = {p_value} says",
        ],
    ]


def _significant(lead: float, limit: float) -> str:
    return "significant" if lead >= limit else "not significant"


def _agrees(apart: float, rounding: float) -> str:
    """Whether a printed figure is the computed one but for its rounding."""
    return "agrees" if apart <= rounding else "differs"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
