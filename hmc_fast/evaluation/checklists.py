"""CLAIM (2024 update) and TRIPOD+AI: every item, filled in where the study knows the answer.

Topics are in our own words; the published lists hold: Tejani et al., Radiology: Artificial
Intelligence 6 (2024) e240300; Collins et al., BMJ 385 (2024) e078378.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from hmc_fast.evaluation.checklist_answers import AUTHOR, answers

CLAIM, TRIPOD = "CLAIM 2024", "TRIPOD+AI"
SOURCES = {
    CLAIM: "Tejani et al., Radiol. Artif. Intell. 6 (2024) e240300, doi 10.1148/ryai.240300",
    TRIPOD: "Collins et al., BMJ 385 (2024) e078378, doi 10.1136/bmj-2023-078378",
}
ITEMS = {CLAIM: 44, TRIPOD: 27}  # of the published lists; TRIPOD+AI's have 52 lines in all

# number, topic, name of the answer ("" where no run can know it)
CLAIM_ITEMS = (
    ("1", "Title: the kind of AI", "technique"),
    ("2", "Abstract: structured summary", ""),
    ("3", "Background, intended use and clinical role", ""),
    ("4", "Aims and hypotheses", ""),
    ("5", "Prospective or retrospective", ""),
    ("6", "Goal of the study", "goal"),
    ("7", "Where the data come from", "source"),
    ("8", "Inclusion and exclusion", ""),
    ("9", "Preprocessing", "preprocessing"),
    ("10", "Choice of subsets of the data", "subset"),
    ("11", "De-identification", "identity"),
    ("12", "Missing data", ""),
    ("13", "How images were acquired", "acquisition"),
    ("14", "Reference standard: definition", "label"),
    ("15", "Reference standard: why this one", ""),
    ("16", "Who annotated, with what training", "annotator"),
    ("17", "How the test images were annotated", "annotator"),
    ("18", "Agreement of annotators", "annotator"),
    ("19", "Partitions and their shares", "partition"),
    ("20", "Level at which partitions are disjoint", "disjoint"),
    ("21", "Intended size of the test set", "size"),
    ("22", "Model: architecture", "architecture"),
    ("23", "Software and versions", "software"),
    ("24", "How weights were initialised", "initial"),
    ("25", "Training and its settings", "training"),
    ("26", "How the tested model was selected", "selection"),
    ("27", "Ensembles", "ensemble"),
    ("28", "Measures of performance", "measures"),
    ("29", "Uncertainty and significance", "uncertainty"),
    ("30", "Robustness, sensitivity analysis", "robustness"),
    ("31", "Explanations and their check", "explanation"),
    ("32", "Testing on internal data", "internal"),
    ("33", "Testing on external data", "external"),
    ("34", "Registration of a trial", ""),
    ("35", "Numbers included and excluded", "flow"),
    ("36", "Characteristics of each partition", "characteristics"),
    ("37", "Performance on the test data", "performance"),
    ("38", "Diagnostic accuracy with intervals", "area"),
    ("39", "Analysis of failures", "failure"),
    ("40", "Limitations", ""),
    ("41", "Implications for practice", ""),
    ("42", "Full protocol", ""),
    ("43", "Availability of software, models, data", "availability"),
    ("44", "Funding", ""),
)
TRIPOD_ITEMS = (
    ("1", "Title: model, population, outcome", "technique"),
    ("2", "Abstract by its own list", ""),
    ("3a", "Clinical context and earlier models", ""),
    ("3b", "Target population, purpose and users", ""),
    ("3c", "Known inequalities in health", ""),
    ("4", "Objectives: development, evaluation or both", "goal"),
    ("5a", "Sources of the data", "source"),
    ("5b", "Dates of the data", ""),
    ("6a", "Setting and centres", ""),
    ("6b", "Who was eligible", ""),
    ("6c", "Treatments", ""),
    ("7", "Preparation and checks of the data", "preprocessing"),
    ("8a", "Outcome: definition", "label"),
    ("8b", "Outcome: who assessed it", "annotator"),
    ("8c", "Outcome: blinding", "annotator"),
    ("9a", "Predictors: choice", "predictor"),
    ("9b", "Predictors: definition and measurement", "acquisition"),
    ("9c", "Predictors: who assessed them", "predictor_reader"),
    ("10", "Size of the study", "size"),
    ("11", "Missing data", ""),
    ("12a", "Use of the data, partitions", "partition"),
    ("12b", "Handling of predictors", "preprocessing"),
    ("12c", "Kind of model, its building and internal check", "training"),
    ("12d", "Differences between clusters", "heterogeneity"),
    ("12e", "Measures and plots of performance", "measures"),
    ("12f", "Updating of the model", "updating"),
    ("12g", "How predictions were computed", "prediction"),
    ("13", "Class imbalance", "imbalance"),
    ("14", "Fairness", ""),
    ("15", "Output of the model, thresholds", "output"),
    ("16", "Development against evaluation data", "internal"),
    ("17", "Ethical approval, consent", "ethics"),
    ("18a", "Funding", ""),
    ("18b", "Conflicts of interest", ""),
    ("18c", "Protocol", ""),
    ("18d", "Registration", ""),
    ("18e", "Sharing of data", ""),
    ("18f", "Sharing of code", "software"),
    ("19", "Involvement of patients and public", ""),
    ("20a", "Flow of participants", "flow"),
    ("20b", "Characteristics of participants", "characteristics"),
    ("20c", "Evaluation against development data, compared", ""),
    ("21", "Participants and outcomes of each analysis", "folds"),
    ("22", "Full model, for use by others", "availability"),
    ("23a", "Performance with intervals", "performance"),
    ("23b", "Performance between clusters", "heterogeneity"),
    ("24", "Results of updating", "updating"),
    ("25", "Interpretation", ""),
    ("26", "Limitations", ""),
    ("27a", "Poor or missing input in use", ""),
    ("27b", "Interaction and expertise of users", ""),
    ("27c", "Next steps", ""),
)


class Item(NamedTuple):
    """A line of a checklist and what the study answers, AUTHOR where it cannot know."""

    checklist: str
    item: str
    topic: str
    answer: str


def checklist(study: Mapping[str, Any]) -> list[Item]:
    """Every line of both lists with its answer, from the study alone.

    study: as hmc_fast/study/collect.py makes it, with a run or more.
    """
    known = answers(study)
    return [
        Item(name, number, topic, known[key] if key else AUTHOR)
        for name, lines in ((CLAIM, CLAIM_ITEMS), (TRIPOD, TRIPOD_ITEMS))
        for number, topic, key in lines
    ]
