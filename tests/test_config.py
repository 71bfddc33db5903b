"""Settings: what presets decide, flags made from the fields, a configuration file below the
flags."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from hmc_fast.cli import build_parser
from hmc_fast.errors import InputError
from hmc_fast.training import loop
from hmc_fast.training.config import TrainConfig, config_from_dict, flag, resolve, resolve_device
from tiny import run

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
QUICK = {"preset": "quick", "image_size": 64, "batch_size": 8, "epochs": 5, "augmented": None}
FULL = {"preset": "full", "image_size": 224, "batch_size": 32, "epochs": None, "augmented": 200_000}


@pytest.mark.parametrize(
    ("given", "device", "expected"),
    [
        ({}, CPU, QUICK),
        ({}, CUDA, FULL),
        ({"preset": "quick"}, CUDA, QUICK),
        ({"preset": "full"}, CPU, FULL),
        ({"data": "mias:x"}, CUDA, FULL),
        ({"data": "mias:x"}, CPU, FULL | {"epochs": 5, "augmented": None}),
        ({"data": "mias:x", "preset": "full"}, CPU, FULL),
        ({"data": "mias:x", "preset": "quick"}, CPU, QUICK),
        ({"data": "mias:x", "epochs": 3}, CPU, FULL | {"epochs": 3, "augmented": None}),
        ({"data": "mias:x", "augmented": 9}, CPU, FULL | {"augmented": 9}),
        ({"epochs": 3}, CUDA, FULL | {"epochs": 3, "augmented": None}),
        ({"augmented": 9}, CPU, QUICK | {"epochs": None, "augmented": 9}),
        ({"image_size": 96, "batch_size": 4}, CPU, QUICK | {"image_size": 96, "batch_size": 4}),
    ],
)
def test_a_preset_fills_in_what_is_not_given(given, device, expected):
    config, _ = resolve(TrainConfig(**given), device)
    assert {name: getattr(config, name) for name in expected} == expected
    untouched = [f.name for f in dataclasses.fields(config) if f.name not in {**expected, **given}]
    assert all(getattr(config, name) == getattr(TrainConfig(), name) for name in untouched)


@pytest.mark.parametrize(
    ("given", "device", "sentences"),
    [
        ({}, CPU, ["preset quick (the default on a CPU); change it with --preset or single flags"]),
        ({}, CUDA, ["preset full (the default with CUDA); change it with --preset or single"]),
        ({"preset": "full"}, CPU, ["preset full (asked for)"]),
        ({"data": "x", "epochs": 1}, CPU, ["preset full (the default for real images)"]),
        (
            {"data": "x"},
            CPU,
            ["preset full", "5 epochs, because this is a CPU and no budget was given; the paper's"],
        ),
    ],
)
def test_the_choice_is_told_with_its_reason(given, device, sentences):
    _, notes = resolve(TrainConfig(**given), device)
    assert len(notes) == len(sentences)
    assert all(note.startswith(start) for note, start in zip(notes, sentences, strict=True))


def test_resolving_twice_changes_nothing():
    for device in (CPU, CUDA):
        config, _ = resolve(TrainConfig(data="x"), device)
        assert resolve(config, device)[0] == config


def test_every_field_has_a_flag_a_help_and_its_default():
    text = " ".join(subparser("train").format_help().split())
    for field in dataclasses.fields(TrainConfig):
        assert f"{flag(field.name)}" in text
        assert field.metadata["help"] in text
        if field.default is not None:
            assert f"(default: {field.default})" in text


def subparser(name: str):
    return build_parser()._subparsers._group_actions[0].choices[name]


EXAMPLES = {
    "data": "mias:x", "classes": "a,b", "variant": "vgg16", "out": "o", "preset": "full",
    "image_size": 96, "epochs": 3, "augmented": 70, "batch_size": 4, "lr": 0.5, "folds": 7,
    "protocol": "image",
    "only_fold": 2, "seed": 9, "device": "cpu", "backend": "sdpa", "amp": "off", "compile": True,
    "deterministic": True, "class_weights": "balanced", "label": "worst", "reduction": 4,
    "scale": 1.0, "attention_form": "direct", "weights": "w.pth", "validation_fraction": 0.25,
    "checkpoint_every": 2.5,
    "workers": 3,
}  # fmt: skip


@pytest.fixture
def given(monkeypatch, tmp_path):
    """A function: the configuration that `hmc-fast train WORDS` would train with."""
    monkeypatch.chdir(tmp_path)

    def parse(*words: object) -> TrainConfig:
        seen: list[TrainConfig] = []
        monkeypatch.setattr(loop, "train", lambda config, **options: seen.append(config))
        assert run("train", *words) == 0
        return seen[0]

    return parse


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_flag_sets_its_field_and_no_other(given, name):
    assert set(EXAMPLES) == {field.name for field in dataclasses.fields(TrainConfig)}
    value = EXAMPLES[name]
    words = [flag(name)] if value is True else [flag(name), value]
    config = given(*words)
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)
    assert dataclasses.replace(config, **{name: getattr(TrainConfig(), name)}) == TrainConfig()


def test_a_switch_can_be_turned_off_again(given, tmp_path):
    (tmp_path / "c.json").write_text('{"compile": true, "deterministic": true}')
    config = given("--config", "c.json", "--no-compile")
    assert (config.compile, config.deterministic) == (False, True)


def test_flags_lie_on_top_of_the_file(given, tmp_path):
    (tmp_path / "c.json").write_text('{"lr": 0.5, "seed": 3, "out": "elsewhere"}')
    config = given("--config", "c.json", "--lr", "0.25")
    assert config == TrainConfig(lr=0.25, seed=3)  # the earlier run's folder is not taken


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ([], {}),
        (["--epochs", 3], {"epochs": 3, "augmented": None}),
        (["--augmented", 9], {"augmented": 9}),
        (["--preset", "quick"], QUICK),
        (["--preset", "quick", "--image-size", 96], QUICK | {"image_size": 96}),
        (["--image-size", 96], {"image_size": 96}),
    ],
)
def test_flags_on_top_of_a_full_configuration(given, tmp_path, words, changes):
    before, _ = resolve(TrainConfig(data="x", preset="full", lr=0.5), CPU)
    (tmp_path / "c.json").write_text(json.dumps(dataclasses.asdict(before)))
    config, _ = resolve(given("--config", "c.json", *words), CPU)
    assert config == dataclasses.replace(before, **changes)


def test_resume_takes_the_settings_of_the_run(given, tmp_path):
    before, _ = resolve(TrainConfig(out="run", lr=0.5, validation_fraction=0.25), CPU)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(dataclasses.asdict(before)))
    assert given("--resume", "--out", "run") == before
    assert resolve(given("--resume", "--out", "run", "--preset", "quick"), CPU)[0] == before
    assert given("--resume", "--out", "run", "--epochs", 5) == before
    assert given("--resume", "--out", "run", "--workers", 7).workers == 7
    assert given("--resume", "--out", "new") == TrainConfig(out="new")


def test_the_command_is_kept_as_it_was_given(monkeypatch, tmp_path):
    seen: list[str] = []
    monkeypatch.setattr(loop, "train", lambda config, command, **options: seen.append(command))
    run("train", "--data", "my images", "--out", "train", "--compile")
    assert seen == ["hmc-fast train --data 'my images' --out train --compile"]


def test_a_configuration_survives_json():
    config = TrainConfig(**EXAMPLES | {"epochs": None, "protocol": "patient"})
    assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert config_from_dict({}) == TrainConfig()
    assert config_from_dict({"lr": 1}).lr == 1  # JSON's 1 is a number too


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1])
def test_rules_hold_for_the_dataclass_too(value):
    with pytest.raises(InputError, match="--lr must be a number above 0"):
        TrainConfig(lr=value)


def test_class_names_are_split_and_trimmed():
    assert TrainConfig(classes="a, b ,c").class_names == ("a", "b", "c")


def test_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == CPU
    assert resolve_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match=r"cuda:2 asked for, but torch sees 2 CUDA device\(s\)"):
        resolve_device("cuda:2")


def test_the_home_directory_is_understood_in_out(given, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path(tmp_path / "run")
    folder.mkdir()
    (folder / "config.json").write_text('{"seed": 5}')
    assert given("--resume", "--out", "~/run").seed == 5
