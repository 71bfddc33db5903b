"""Test patients have no say: no split shares one, and no pixel of theirs changes the weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.protocols import PROTOCOLS, split_images
from hmc_fast.errors import InputError
from hmc_fast.training import loop, run_data
from hmc_fast.training.config import TrainConfig
from tiny import CLASSES, SETTINGS, make_folder, skip_pages, table, tiny_network, weights_of


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A function: the folder of a quiet run of the tiny network on data/, without report."""
    skip_pages(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "cache"))

    def call(out: str, **settings: object) -> Path:
        config = TrainConfig(**SETTINGS | {"data": "data", "out": out, "lr": 0.1} | settings)
        return loop.train(config, quiet=True, build=tiny_network)

    return call


def change(path: Path) -> None:
    pixels = np.array(Image.open(path))
    Image.fromarray(255 - pixels).save(path)


def test_test_images_never_change_the_trained_weights(train, tmp_path):
    data = make_folder(tmp_path / "data")
    settings = {"deterministic": True, "only_fold": 0, "epochs": 1}
    before = train("before", **settings)
    rows = table(before / "folds.csv")
    for row in rows:
        if row["fold"] == "0":
            change(data / row["image"])
    after = train("after", **settings)
    assert (before / "folds.csv").read_bytes() == (after / "folds.csv").read_bytes()
    assert (before / "predictions.csv").read_bytes() != (after / "predictions.csv").read_bytes()
    assert weights_of(before) == weights_of(after)
    change(data / next(row["image"] for row in rows if row["fold"] == "1"))
    assert weights_of(train("other", **settings)) != weights_of(before)  # the hash does see pixels


def random_dataset(seed: int, patients: int = 200, mutated: frozenset = frozenset()) -> Dataset:
    """1 to 6 films of each patient, of one class or healthy, in mixed order; other pixels for the
    images in `mutated`."""
    generator = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), generator.integers(1, 7, patients))
    generator.shuffle(owners)
    healthy = generator.random(len(owners)) < 0.3
    labels = np.where(healthy, 0, generator.integers(0, 3, patients)[owners])
    worst = np.array([labels[owners == owner].max() for owner in owners])

    def read(i: int) -> np.ndarray:
        return np.random.default_rng([seed, i, i in mutated]).integers(0, 256, (8, 8), np.uint8)

    return Dataset(
        name="random",
        classes=CLASSES,
        images=tuple(f"{i:05d}" for i in range(len(owners))),
        patients=tuple(f"p{owner}" for owner in owners),
        labels=labels,
        strata=worst,
        read=read,
        mask=lambda i: None,
        content=lambda i: f"{seed} {i} {i in mutated}",
    )


def assert_no_split_shares_a_patient(train, monkeypatch, seeds) -> None:
    seen: list[loop.Session] = []
    monkeypatch.setattr(loop, "_run", lambda session: seen.append(session) or session.folder)
    for seed in seeds:
        dataset, fraction = random_dataset(seed), (0.0, 0.2)[seed % 2]
        monkeypatch.setattr(run_data, "open_dataset", lambda *_, dataset=dataset, **__: dataset)
        train(f"{seed}", seed=seed, folds=2 + seed % 9, validation_fraction=fraction)
        jobs = loop._jobs(seen[-1], [*range(2 + seed % 9)])
        for job in jobs:
            parts = [{dataset.patients[i] for i in part} for part in job.split]
            assert len(set().union(*parts)) == sum(map(len, parts)) == 200
            assert set(job.plan.indices) == set(job.split.train)
        assert sorted(np.concatenate([job.split.test for job in jobs])) == [*range(len(dataset))]


def test_no_split_of_200_patients_shares_one(train, monkeypatch):
    assert_no_split_shares_a_patient(train, monkeypatch, range(2))


@pytest.mark.slow
def test_no_split_of_200_patients_ever_shares_one(train, monkeypatch):
    assert_no_split_shares_a_patient(train, monkeypatch, range(2, 60))


def assert_test_pixels_do_not_matter(train, monkeypatch, seeds) -> None:
    for seed in seeds:
        weights, predictions, mutated = [], [], frozenset()
        for name in ("before", "after"):
            dataset = random_dataset(seed, mutated=mutated)
            monkeypatch.setattr(run_data, "open_dataset", lambda *_, dataset=dataset, **__: dataset)
            settings = {"epochs": None, "augmented": 4, "folds": 5, "only_fold": seed % 5}
            folder = train(f"{seed}{name}", seed=seed, **settings)
            tested = {row["image"] for row in table(folder / "predictions.csv")}
            mutated = frozenset(i for i, image in enumerate(dataset.images) if image in tested)
            weights.append(weights_of(folder, seed % 5))
            predictions.append((folder / "predictions.csv").read_bytes())
        assert weights[0] == weights[1]
        assert predictions[0] != predictions[1]


def test_mutated_test_pixels_of_200_patients_do_not_matter(train, monkeypatch):
    assert_test_pixels_do_not_matter(train, monkeypatch, range(1))


@pytest.mark.slow
def test_mutated_test_pixels_of_200_patients_never_matter(train, monkeypatch):
    assert_test_pixels_do_not_matter(train, monkeypatch, range(1, 20))


def test_a_split_that_leaks_does_not_start(train, monkeypatch, tmp_path):
    def leaking(dataset: Dataset, folds: int, seed: int, protocol: str) -> np.ndarray:
        return np.arange(len(dataset)) % folds

    make_folder(tmp_path / "data")
    monkeypatch.setattr(loop, "split_images", leaking)
    with pytest.raises(
        InputError, match=r"patient b0 is in two folds \(benign/b0_0\.png in fold 0"
    ):
        train("run")
    assert not (tmp_path / "run").exists()


def jobs_of(train, monkeypatch, protocol: str, dataset: Dataset) -> list[loop.Job]:
    seen: list[loop.Session] = []
    monkeypatch.setattr(loop, "_run", lambda session: seen.append(session) or session.folder)
    monkeypatch.setattr(run_data, "open_dataset", lambda *_, **__: dataset)
    train(protocol, protocol=protocol, folds=5)
    return loop._jobs(seen[-1], [*range(5)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_protocol_puts_on_both_sides_what_it_says(train, monkeypatch, protocol):
    dataset = random_dataset(3, patients=40)
    jobs = jobs_of(train, monkeypatch, protocol, dataset)
    shared_images = [len({*job.split.train} & {*job.split.test}) for job in jobs]
    shared_patients = [
        len({dataset.patients[i] for i in job.split.train} & patients)
        for job in jobs
        for patients in [{dataset.patients[i] for i in job.split.test}]
    ]
    tests = [len(job.split.test) for job in jobs]
    assert shared_images == (tests if protocol == "leaky" else [0] * 5)
    assert all(shared_patients) if protocol != "patient" else not any(shared_patients)
    assert sorted(np.concatenate([job.split.test for job in jobs])) == [*range(len(dataset))]


def test_a_pass_is_as_long_under_leaky_as_under_image(train, monkeypatch):
    dataset = random_dataset(3, patients=40)
    image, leaky = (jobs_of(train, monkeypatch, name, dataset) for name in ("image", "leaky"))
    assert [job.plan.total for job in leaky] == [job.plan.total for job in image]
    assert [[*job.split.test] for job in leaky] == [[*job.split.test] for job in image]


def test_a_leaking_run_says_so_everywhere(train, tmp_path):
    make_folder(tmp_path / "data")
    folder = train("run", protocol="leaky")
    assert json.loads((folder / "config.json").read_text())["protocol"] == "leaky"
    assert json.loads((folder / "metrics.json").read_text())["protocol"] == "leaky"
    assert json.loads((folder / "fold0" / "model.json").read_text())["protocol"] == "leaky"


def test_a_leaking_protocol_takes_no_patients_for_validation():
    with pytest.raises(InputError, match="--validation-fraction holds whole patients out"):
        TrainConfig(protocol="image", validation_fraction=0.2)


def test_a_class_with_fewer_images_than_folds_is_refused():
    with pytest.raises(InputError, match=r"class \w+ has \d+ images, too few for 40 folds"):
        split_images(random_dataset(3, patients=9), 40, 0, "image")
