"""What a study can answer of a reporting checklist, in sentences made from its numbers.

Where a part of an answer is not the software's to know, the sentence ends with AUTHOR's words.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmc_fast.evaluation.report.study_cells import shown
from hmc_fast.evaluation.report.wording import interval, number, percent
from hmc_fast.sentences import counted

AUTHOR = "author must state"
SYNTHETIC = "phantom"
NO_PATIENTS = "not applicable: the images are synthetic"


def answers(study: Mapping[str, Any]) -> dict[str, str]:
    """The answers by the names that checklists.py gives them; study: with a run or more."""
    return {
        **_data(study),
        **_partitions(study),
        **_model(study),
        **_training(study),
        **_evaluation(study),
        **_results(study),
    }


def _data(study: Mapping[str, Any]) -> dict[str, str]:
    dataset, config = study["dataset"], study["runs"][0]["config"]
    synthetic = dataset["name"] == SYNTHETIC
    size = f"{dataset['images']} images of {counted(dataset['patients'], 'patient')}"
    counts = ", ".join(f"{name} {n}" for name, n in dataset["counts"].items())
    drawn = "; drawn by this software, no patient in it" if synthetic else ""
    return {
        "source": f"{dataset['name']}: {size}{drawn}",
        "preprocessing": f"grey, resized to {_pixels(study)}, scaled to -1 to 1; nothing is "
        "cropped or left out",
        "subset": f"none chosen by the software; what the data set leaves out: {AUTHOR}",
        "identity": NO_PATIENTS if synthetic else AUTHOR,
        "acquisition": "drawn, not acquired" if synthetic else AUTHOR,
        "annotator": NO_PATIENTS if synthetic else AUTHOR,
        "ethics": NO_PATIENTS if synthetic else AUTHOR,
        "label": _label(dataset, config, synthetic),
        "flow": f"{size} were used; how they were found, and exclusions before: {AUTHOR}",
        "characteristics": f"images by class: {counts}; age and the like: {AUTHOR}",
        "size": f"{size}, each tested once; how the size was decided: {AUTHOR}",
    }


def _label(dataset: Mapping[str, Any], config: Mapping[str, Any], synthetic: bool) -> str:
    classes = ", ".join(dataset["classes"])
    if synthetic:
        return f"what was drawn: {classes}"
    rule = (
        f", the {config['label']} row of an image" if dataset["mias"] and "label" in config else ""
    )
    return f"{classes}, as the data set has it{rule}; how it was established: {AUTHOR}"


def _partitions(study: Mapping[str, Any]) -> dict[str, str]:
    run = study["runs"][0]
    config, sizes = run["config"], np.unique(run["folds"], return_counts=True)[1]
    leaks = [other["protocol"] for other in study["leak"] if other["protocol"] != "patient"]
    broken = f"; broken on purpose in the leak study ({', '.join(leaks)})" if leaks else ""
    images = ", ".join(map(str, sizes))
    held = config.get("validation_fraction")
    tuned = f"; {percent(held)} of the training patients held out to select" if held else ""
    return {
        "partition": f"{counted(len(sizes), 'fold')} of whole patients, stratified by their worst "
        f"class, seed {_known(config, 'seed')}: every image is tested once and trained on "
        f"otherwise{tuned}",
        "disjoint": f"patient: all images of a patient are in one fold{broken}",
        "folds": f"test images of the folds: {images}; classes in the table of fold sizes",
        "imbalance": _imbalance(config),
        "internal": "the same data set, other patients: the folds' test images, pooled",
        "external": f"none here; why, or where else: {AUTHOR}",
    }


def _imbalance(config: Mapping[str, Any]) -> str:
    weights = config.get("class_weights")
    if weights is None:
        return AUTHOR
    loss = "not weighted" if weights == "none" else f"weighted ({weights})"
    return f"folds stratified, loss {loss}; no recalibration"


def _model(study: Mapping[str, Any]) -> dict[str, str]:
    variants = [run["variant"] for run in study["runs"]]
    sizes = [
        f"{name} {shown(study['complexity'][name]['parameters'], 0)} parameters, "
        f"{number(study['complexity'][name]['gmac'], 2)} GMAC"
        for name in variants
        if name in study["complexity"]
    ]
    weights = study["runs"][0]["config"].get("weights")
    files = ", ".join(run["folder"] for run in study["runs"])
    return {
        "technique": f"deep learning ({', '.join(variants)}); the title itself: {AUTHOR}",
        "goal": f"development and internal evaluation of {counted(len(variants), 'network')}; "
        f"the aim behind it: {AUTHOR}",
        "architecture": "; ".join(sizes) or AUTHOR,
        "software": _software([*study["runs"], *study["leak"]]),
        "initial": f"ResNet backbones from {weights}"
        if weights
        else "random, by the seed; no pretraining",
        "ensemble": "none: an image is predicted by the one model that did not train on it",
        "availability": f"models and settings are in {files}; who may have them, and the data: "
        f"{AUTHOR}",
        "predictor": "the pixels of the image, nothing else",
        "predictor_reader": "not applicable: pixels are read by the software",
        "output": "a probability for each class; the largest one decides, no threshold was chosen",
        "prediction": "softmax of the network's logits, one image, no test-time augmentation",
        "updating": "none",
    }


def _software(runs: Sequence[Mapping[str, Any]]) -> str:
    """Every version and commit that a run was made with."""
    found: dict[str, dict[str, None]] = {}
    for environment in (run["environment"] for run in runs):
        versions = {"hmc-fast": environment.get("hmc_fast"), "Python": environment.get("python")}
        versions |= environment.get("packages", {})
        versions |= {"commit": environment.get("commit")}
        for name, version in versions.items():
            if version:
                found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(each)}" for name, each in found.items()) or AUTHOR


def _training(study: Mapping[str, Any]) -> dict[str, str]:
    run = study["runs"][0]
    config, steps = run["config"], sorted(set(run["steps"]))
    settings = {"learning rate": "lr", "batch": "batch_size", "epochs": "epochs"}
    settings |= {"augmented images a fold": "augmented", "low precision": "amp"}
    named = [f"{word} {config[key]}" for word, key in settings.items() if config.get(key)]
    budget = f"{' or '.join(map(str, steps))} steps a fold"
    held = config.get("validation_fraction")
    return {
        "training": f"cross-entropy, Adam, {', '.join([*named, budget])}; training images "
        "flipped, rotated, brightened, contrasted at random",
        "selection": f"the epoch, on {percent(held)} of the training patients"
        if held
        else "nothing is selected: the last step's weights are tested",
    }


def _evaluation(study: Mapping[str, Any]) -> dict[str, str]:
    bootstrap = study["runs"][0]["metrics"]["pooled"]["bootstrap"]
    explained, leak = study["explanations"], study["leak"]
    folds = len(study["runs"][0]["metrics"]["per_fold"])
    return {
        "measures": "accuracy, balanced accuracy, macro sensitivity, specificity, precision, F1 "
        "and AUC, each class against the rest, calibration",
        "uncertainty": f"{percent(bootstrap['level'])} percentile bootstrap, "
        f"{bootstrap['resamples']} draws of whole patients; sd over {counted(folds, 'fold')}; "
        "pairwise differences and rank tests where there are two models or more",
        "robustness": "the leak study: other splits, same images and budget"
        if leak
        else f"none here; {AUTHOR}",
        "explanation": f"heatmaps of {explained['variant']} with their localisation beside its "
        "bound"
        if explained
        else "none here",
        "heterogeneity": f"the figures of each of {counted(folds, 'fold')}; centres and devices: "
        f"{AUTHOR}",
    }


def _results(study: Mapping[str, Any]) -> dict[str, str]:
    first = study["runs"][0]
    wrong = int((np.asarray(first["probabilities"]).argmax(axis=1) != first["labels"]).sum())
    return {
        "performance": f"balanced accuracy: {_each(study, 'balanced_accuracy')}",
        "area": f"AUC, one-vs-rest, mean over classes: {_each(study, 'auc')}",
        "failure": f"{first['name']} is wrong on {wrong} of {len(first['labels'])} images, each in "
        f"{first['folder']}/predictions.csv; what they show: {AUTHOR}",
    }


def _each(study: Mapping[str, Any], metric: str) -> str:
    """'hmc 0.712 (0.650 to 0.770), resnet50 …' of the pooled predictions."""
    pooled = [(run["name"], run["metrics"]["pooled"]) for run in study["runs"]]
    return ", ".join(
        f"{name} {number(values[metric])} ({interval(values['intervals'][metric])})"
        for name, values in pooled
    )


def _pixels(study: Mapping[str, Any]) -> str:
    size = study["runs"][0]["config"].get("image_size", study["config"].get("image_size"))
    return f"{size} x {size} px" if size else f"a size that the {AUTHOR}"


def _known(config: Mapping[str, Any], name: str) -> str:
    return str(config[name]) if name in config else AUTHOR
