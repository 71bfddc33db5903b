"""Which runs a study has, with which settings, and who trains their folds."""

import dataclasses
import json

import pytest
import torch

from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.run_folder import locked
from hmc_fast.training.study import make_grid, this_process
from hmc_fast.training.study_config import (
    FOUR,
    StudyConfig,
    changed_settings,
    chosen_variants,
    resolve_study,
    settings_from_dict,
    study_settings,
)
from hmc_fast.training.study_display import GridProgress

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def grid_of(tmp_path, base=None, **settings):
    base, chosen, _ = resolve_study(base or TrainConfig(), StudyConfig(**settings), CPU)
    return make_grid(base, chosen, tmp_path)


def test_the_quick_study_is_four_networks_of_30_steps():
    base, chosen, _ = resolve_study(TrainConfig(), StudyConfig(), CPU)
    assert (base.preset, base.image_size, base.batch_size) == ("quick", 64, 8)
    assert (base.augmented, base.epochs) == (30 * 8, None)
    assert chosen_variants(chosen) == list(FOUR)


@pytest.mark.parametrize(
    ("device", "data", "expected"),
    [(CUDA, "mias:x", VARIANTS), (CPU, "mias:x", FOUR), (CUDA, "phantom", VARIANTS)],
)
def test_all_seven_networks_are_for_cuda(device, data, expected):
    chosen = resolve_study(TrainConfig(data=data), StudyConfig(), device)[1]
    assert set(chosen_variants(chosen)) == set(expected)


def test_a_budget_that_is_given_stays():
    base = resolve_study(TrainConfig(preset="quick", epochs=3), StudyConfig(), CPU)[0]
    assert (base.epochs, base.augmented) == (3, None)


def test_one_precision_for_all_networks_on_a_cpu():
    base, _, notes = resolve_study(TrainConfig(), StudyConfig(), CPU)
    assert base.amp == "off"
    assert any("float32 for all networks" in note for note in notes)
    assert resolve_study(TrainConfig(amp="bf16"), StudyConfig(), CPU)[0].amp == "bf16"


def test_the_leak_study_shares_the_honest_run_of_its_network(tmp_path):
    grid = grid_of(tmp_path)
    assert [cell.name for cell in grid.runs] == list(FOUR)
    assert [cell.name for cell in grid.leak] == ["hmc", "hmc-image", "hmc-leaky"]
    assert len(grid.cells) == 6
    assert {cell.config.seed for cell in grid.cells} == {0}
    assert {cell.config.augmented for cell in grid.cells} == {240}


@pytest.mark.parametrize("settings", [{"leak_epochs": 7}, {"leak_variant": "vgg16"}])
def test_a_leak_study_with_a_budget_or_network_of_its_own_has_an_honest_run_of_its_own(
    tmp_path, settings
):
    names = [cell.name for cell in grid_of(tmp_path, **settings).leak]
    variant = settings.get("leak_variant", "hmc")
    assert names == [f"{variant}-patient", f"{variant}-image", f"{variant}-leaky"]


def test_the_leak_studys_own_budget_replaces_the_grids(tmp_path):
    grid = grid_of(tmp_path, TrainConfig(epochs=2), leak_augmented=900)
    assert {(cell.config.epochs, cell.config.augmented) for cell in grid.leak} == {(None, 900)}
    assert {(cell.config.epochs, cell.config.augmented) for cell in grid.runs} == {(2, None)}


def test_runs_differ_in_nothing_but_network_protocol_and_folder(tmp_path):
    first, *others = grid_of(tmp_path, variants="all").cells
    for cell in others:
        changes = {"variant": "hmc", "protocol": "patient", "out": first.config.out}
        assert dataclasses.replace(cell.config, **changes) == first.config


@pytest.mark.parametrize("words", ["hmc,resnet51", ",", "all,hmc"])
def test_unknown_networks_are_refused(words):
    with pytest.raises(InputError, match="--variants must name networks of hmc, "):
        chosen_variants(StudyConfig(variants=words))


def test_no_leak_study_where_none_is_wanted(tmp_path):
    assert grid_of(tmp_path, leak_variant="none").leak == []


def test_two_budgets_of_the_leak_study_are_refused():
    with pytest.raises(InputError, match="--leak-epochs or --leak-augmented, not both"):
        StudyConfig(leak_epochs=1, leak_augmented=2)


def test_settings_survive_json():
    base, chosen, _ = resolve_study(TrainConfig(lr=0.5), StudyConfig(leak_epochs=2), CPU)
    values = json.loads(json.dumps(study_settings(base, chosen)))
    again, other = settings_from_dict(values)
    assert (again, other) == (base, chosen)


def test_a_study_names_what_it_cannot_change():
    base, chosen, _ = resolve_study(TrainConfig(), StudyConfig(), CPU)
    before = study_settings(base, chosen)
    now = dataclasses.replace(base, lr=0.5, workers=7)
    more = dataclasses.replace(chosen, variants="hmc", parallel="folds")
    assert changed_settings(before, now, more) == ["--lr 0.0001 there, 0.5 here"]


def test_torchrun_needs_to_be_told_what_to_share(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="torchrun started 3 processes: give --parallel folds"):
        this_process("none", CPU)
    assert this_process("folds", CPU) == (1, 3)
    assert not this_process("folds", CPU).leads


@pytest.mark.parametrize(
    ("values", "named"),
    [({"what": 1}, "'what'"), ({"training": 3}, "'training'"), ({"training": {"x": 1}}, "'x'")],
)
def test_a_damaged_study_json_is_named(values, named):
    with pytest.raises(InputError, match=named):
        settings_from_dict(values)


def test_a_run_whose_folds_are_all_held_is_left_to_those_who_hold_them(tmp_path):
    cell = grid_of(tmp_path, TrainConfig(folds=2)).runs[0]
    assert cell.can_go_on()
    with locked(cell.folder / "fold0"):
        assert cell.can_go_on()
        with locked(cell.folder / "fold1"):
            assert not cell.can_go_on()
    finish(cell, 0, 1)
    assert cell.can_go_on()  # its results are not written
    assert not cell.is_finished()


def test_a_run_of_other_settings_is_named_before_it_is_taken_for_this_study(tmp_path):
    cell = grid_of(tmp_path).runs[0]
    cell.check_settings()
    cell.folder.mkdir(parents=True)
    then = dataclasses.asdict(cell.config) | {"augmented": 7, "workers": 9}
    (cell.folder / "config.json").write_text(json.dumps(then))
    with pytest.raises(InputError, match=r"hmc was .* \(--augmented 7 there, 240 here\)"):
        cell.check_settings()


def test_the_line_weighs_each_fold_by_its_time(tmp_path):
    runs = grid_of(
        tmp_path, TrainConfig(folds=2), variants="hmc,resnet50", leak_variant="none"
    ).runs
    with GridProgress(runs, {"hmc": 9.0, "resnet50": 1.0}, 1, quiet=True) as progress:
        finish(runs[0], 0)
        progress.show("hmc fold 1/2", ended=True)
        assert progress.line().startswith(
            "study: 1 of 4 folds, 45 % of the work, hmc fold 1/2 is done"
        )
        finish(runs[0], 1)
        finish(runs[1], 0, 1)
        progress.show("resnet50 fold 2/2", ended=True)
        assert (
            progress.line() == "study: 4 of 4 folds, 100 % of the work, resnet50 fold 2/2 is done"
        )


def finish(cell, *folds):
    for fold in folds:
        (cell.folder / f"fold{fold}").mkdir(parents=True, exist_ok=True)
        (cell.folder / f"fold{fold}" / "model.json").write_text("{}")
