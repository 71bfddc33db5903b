"""Which table and figure stands in which section of the study's page, and what a figure shows."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

LEAK = "leak"


class Section(NamedTuple):
    """name: the anchor; words: a table or figure belongs here if its name holds one of them; label:
    what must be known before anything of it is read."""

    name: str
    title: str
    words: str
    text: str = ""
    label: str = ""


# the first section with a word of the name takes it
SECTIONS = (
    Section(
        LEAK,
        "Leak study",
        "leak",
        "The same network, images, budget and seed under three ways of splitting. Only “patient” "
        "keeps everything of a test patient out of training. Under “image” the films of one "
        "patient stand on both sides; under “leaky” augmented copies of the test images are "
        "trained on as well.",
        "An experiment on leakage: the rows image and leaky estimate nothing",
    ),
    Section(
        "paper-itself",
        "The paper and the literature",
        "itself literature table7",
        "Nothing of this section was measured here.",
    ),
    Section("networks", "Networks", "complexity architecture table2 fig4"),
    Section("attention", "Attention", "gamma attention"),
    Section(
        "explanations",
        "Explanations",
        "table6 explanation localisation heatmap",
        "A heatmap shows what a network reacts to, not where a lesion is.",
    ),
    Section("calibration", "Calibration", "calibration"),
    Section(
        "differences",
        "Which differences are there",
        "table8 table9 nemenyi rank friedman critical pair difference power delong "
        "resampled corrected effect",
        "The differences with intervals over patients are what any “better” rests on; the rank "
        "tests are the paper's way, over folds that share their training images.",
    ),
    Section("training", "Training", "training curves time steps"),
    Section(
        "performance",
        "Performance",
        "table3 table4 table5 accuracy metric auc roc confusion class unit fold exact clopper",
    ),
)
ORDER = (
    "performance",
    "differences",
    LEAK,
    "attention",
    "explanations",
    "calibration",
    "networks",
    "training",
    "paper-itself",
    "more",
)
MORE = Section("more", "More", "")

# the beginning of a figure's name: its title, and what one would see
FIGURES = {
    "fig4": ("Figure 4. The network", "The stages of the network with the size of their maps"),
    "architecture": ("Figure 4. The network", "The stages of the network with their maps' sizes"),
    "fig5": (
        "Figure 5. The metrics of every fold",
        "A panel a metric, a column a model: the value of every fold, joined from model to model, "
        "with mean and standard deviation",
    ),
    "fig5b": (
        "Figure 5, all models. The metrics of every fold",
        "A panel a metric, a column a model: the value of every fold with mean and standard "
        "deviation",
    ),
    "fig6": (
        "Figure 6. The metrics of every fold, further",
        "A panel a metric, a column a model: the value of every fold with mean and standard "
        "deviation",
    ),
    "fig7": ("Figure 7. Confusion matrix", "Images by truth in rows and prediction in columns"),
    "fig8": (
        "Figure 8. Loss and accuracy by epoch",
        "Curves of loss and accuracy on training and test images, thin for folds, thick for the "
        "mean; test curves are for display and select nothing",
    ),
    "fig9": (
        "Figures 9 and 10. Heatmaps",
        "A row a film with the outline of its lesion, a column a method: where the network reacts",
    ),
    "fig11b": (
        "Figure 11, all models. Mean ranks and the critical difference",
        "Mean ranks of all models on a line; bars join those that the test does not tell apart",
    ),
    "fig11": (
        "Figure 11. Mean ranks and the critical difference",
        "Mean ranks on a line; bars join models that Nemenyi's test does not tell apart",
    ),
    "calibration": (
        "Reliability of the probabilities",
        "The share of right predictions against the probability given to them",
    ),
    "roc": (
        "ROC curves, each class against the rest",
        "Sensitivity against 1 - specificity with intervals over patients",
    ),
    LEAK: (
        "The leak study: three ways of splitting",
        "Balanced accuracy, accuracy and AUC with intervals under the protocols patient, image "
        "and leaky; the leaky ones are hatched and estimate nothing",
    ),
}


def section_of(name: str) -> str:
    """The section of a table or figure by its name."""
    return next(
        (s.name for s in SECTIONS if any(word in name for word in s.words.split())), MORE.name
    )


def filled(tables: Iterable[Any], figures: Iterable[Any]) -> list[dict[str, Any]]:
    """The sections that have a table or figure, in the page's order, each with its own.

    tables, figures: things with a `name`; every one of them is in one section.
    """
    placed: dict[str, dict[str, list[Any]]] = {
        name: {"tables": [], "figures": []} for name in ORDER
    }
    for kind, things in (("tables", tables), ("figures", figures)):
        for thing in things:
            placed[section_of(thing.name)][kind].append(thing)
    known = {section.name: section for section in (*SECTIONS, MORE)}
    return [
        {**known[name]._asdict(), **things}
        for name, things in placed.items()
        if any(things.values())
    ]


def described(name: str, titles: Mapping[str, tuple[str, str]] = FIGURES) -> tuple[str, str]:
    """Title and alternative text of a figure, by the longest beginning of its name that is known;
    its name in words, where none is."""
    known = [start for start in titles if name.startswith(start)]
    if known:
        return titles[max(known, key=len)]
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:], f"Figure: {words}"
