"""The first lines of the study's page, made from its settings and numbers."""

from collections.abc import Mapping
from typing import Any

from hmc_fast.sentences import counted, duration


def title(study: Mapping[str, Any]) -> str:
    """'Study: 4 networks on phantom'."""
    return f"Study: {counted(len(study['runs']), 'network')} on {study['dataset']['name']}"


def facts(study: Mapping[str, Any]) -> list[str]:
    """Data, models, splits, budget, seed and machine, in a few words each."""
    dataset, runs = study["dataset"], study["runs"]
    counts = ", ".join(f"{n} {name}" for name, n in dataset["counts"].items())
    images, patients = counted(dataset["images"], "image"), counted(dataset["patients"], "patient")
    found = [
        f"{images} of {patients}: {counts}",
        f"networks: {', '.join(run['name'] for run in runs)}",
        folds(study),
        budget(study),
        hardware(study["environment"]),
    ]
    if study["leak"]:
        found.append(f"leak study: {', '.join(run['protocol'] for run in study['leak'])}")
    return [fact for fact in found if fact]


def folds(study: Mapping[str, Any]) -> str:
    """'5 folds of whole patients', and how many of them ran where not all did."""
    run = study["runs"][0]
    done, asked = len(run["metrics"]["per_fold"]), run["config"].get("folds")
    missing = f"{done} of " if asked not in (None, done) else ""
    return f"{missing}{counted(asked or done, 'fold')} of whole patients"


def budget(study: Mapping[str, Any]) -> str:
    """Size, batch, passes, steps and seed as far as the settings have them."""
    run = study["runs"][0]
    config = {**study["config"], **run["config"]}
    steps = sorted({number for each in study["runs"] for number in each["steps"]})
    span = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
    named = {"image_size": "{} px", "batch_size": "batch {}", "epochs": "{} epochs"}
    named |= {"augmented": "{} augmented images a fold", "seed": "seed {}"}
    words = [form.format(config[name]) for name, form in named.items() if _given(config, name)]
    return ", ".join([*words, f"{span} steps a fold"])


def hardware(environment: Mapping[str, Any]) -> str:
    """The GPUs, else the processor, as far as env.json has them."""
    devices = (environment.get("cuda") or {}).get("devices") or []
    if devices:
        return f"on {counted(len(devices), 'GPU')}: {devices[0]['name']}"
    cpu = environment.get("cpu") or {}
    return f"on {cpu['cores']} cores of {cpu['model']}" if "model" in cpu else ""


def took(study: Mapping[str, Any]) -> str:
    """How long the training of everything on the page took."""
    seconds = {run["folder"]: run["metrics"]["seconds"] for run in (*study["runs"], *study["leak"])}
    return f"training took {duration(sum(seconds.values()))}"


def _given(config: Mapping[str, Any], name: str) -> bool:
    return config.get(name) is not None
