"""bench/agreement.py: which images count as borderline, and a small run of it."""

import csv
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import agreement  # noqa: E402
import image_sets  # noqa: E402
from random_network import small_network  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own

EXPECTED = torch.tensor([[0.7, 0.2, 0.1], [0.41, 0.40, 0.19], [0.1, 0.445, 0.455]]).double()


def test_a_class_may_change_where_two_are_close_alone():
    got = EXPECTED + torch.tensor([[0.0, 0.0, 0.0], [-0.01, 0.01, 0.0], [0.01, -0.01, 0.0]])
    found = agreement.compare(got, EXPECTED)
    assert found.difference == pytest.approx(0.01)
    assert found.changed == [1]
    assert found.borderline == [1, 2]
    assert found.faults == []
    line = agreement.describe("phantom", torch.bfloat16, found, ["a", "b", "c"])
    assert line.endswith("3 images, 1 of another class, 2 borderline: b (changed), c")


def test_a_changed_class_far_from_the_border_is_a_fault():
    got = EXPECTED.clone()
    got[0] = torch.tensor([0.44, 0.46, 0.1])
    found = agreement.compare(got, EXPECTED)._replace(borderline=[1, 2])
    assert found.faults == [0]
    assert "FAULT: a changed" in agreement.describe("x", torch.float32, found, ["a", "b", "c"])


def test_all_dtypes_are_compared_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_sets, "IMAGES", 3)
    monkeypatch.setattr(agreement, "network", lambda variant: small_network(torch.float32))
    image_set = image_sets.image_set
    monkeypatch.setattr(image_sets, "image_set", lambda spec, size: image_set(spec, 64))
    assert agreement.main(["--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("agreement-*.csv")
    with open(path, newline="") as file:
        errors = {(r["provider"], r["dtype"]): float(r["q50"]) for r in csv.DictReader(file)}
    assert 0 < errors["optimised", "float64"] < 1e-9 < errors["optimised", "float32"] < 1e-5
    assert 1e-9 < errors["eager", "float32"] < 1e-5
    assert capsys.readouterr().out.count("3 images") == len(errors)


def test_missing_data_are_one_sentence(capsys):
    with pytest.raises(SystemExit) as stop:
        agreement.prepare(["--data", "mias:/no/such/folder"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
