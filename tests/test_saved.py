"""Trained models on the disk: they come back as they were, and damaged ones are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmc_fast import create_model, load_model
from hmc_fast.data.augment import normalise
from hmc_fast.data.cache import load_images
from hmc_fast.data.folder import open_folder
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file
from hmc_fast.models.saved import read_description, save_model, trained_folds
from tiny import CLASSES, make_folder, tiny_layers, use_tiny_network

DESCRIPTION = {
    "variant": "hmc",
    "reduction": 8,
    "scale": None,
    "classes": ["well", "sick"],
    "image_size": 64,
    "preprocessing": Preprocessing(64).to_dict(),
    "fold": 1,
    "folds_sha256": "0" * 64,
    "seed": 0,
    "version": "0.1.0",
}


@pytest.fixture
def fold(tmp_path, monkeypatch) -> Path:
    """fold1/ of a run, with the tiny network."""
    use_tiny_network(monkeypatch)
    folder = tmp_path / "run" / "fold1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    save_model(folder, tiny_layers(2), DESCRIPTION)
    return folder


def test_a_whole_network_comes_back_with_its_logits(tmp_path):
    torch.manual_seed(0)
    model = create_model("hmc", 2, reduction=4, scale=1.0)
    for block in model.attention_blocks().values():
        torch.nn.init.normal_(block.gamma)
    save_model(tmp_path, model, DESCRIPTION | {"reduction": 4, "scale": 1.0})
    loaded = load_model(tmp_path, backend="sdpa")
    assert not loaded.training
    assert {name: block.backend for name, block in loaded.attention_blocks().items()} == {
        name: "sdpa" for name in ("ha1", "ha2", "ca23", "ca34")
    }
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_the_model_knows_its_classes_and_its_description(fold):
    model = load_model(fold)
    assert model.classes == ("well", "sick")
    assert model.preprocessing == Preprocessing(64)
    weights = {"weights_sha256": sha256_file(fold / "model.safetensors")}
    assert model.description == DESCRIPTION | weights == read_description(fold)


def test_a_runs_folder_and_a_folds_folder_give_the_same_model(fold):
    by_run, by_fold = load_model(str(fold.parent), 1), load_model(fold)
    for name, tensor in by_run.state_dict().items():
        assert torch.equal(tensor, by_fold.state_dict()[name])
    assert trained_folds(fold.parent) == [1]


def test_preprocessing_takes_a_file_and_an_array(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    by_file = Preprocessing(64)(tmp_path / "x.png")
    assert torch.equal(by_file, Preprocessing(64)(str(tmp_path / "x.png")))
    assert torch.equal(by_file, Preprocessing(64)(pixels))
    expected = torch.from_numpy(pixels).double() / 255 * 2 - 1  # no resize at its own size
    assert by_file.shape == (1, 3, 64, 64)
    for channel in range(3):
        torch.testing.assert_close(by_file[0, channel].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [64, 96])
def test_preprocessing_gives_what_the_training_saw(tmp_path, monkeypatch, size):
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "cache"))
    dataset = open_folder(make_folder(tmp_path / "data"), classes=CLASSES)
    pixels = load_images(dataset, size).pixels
    for index in (0, 7, 23):
        seen = normalise(torch.from_numpy(pixels[index])[None, None])
        path = tmp_path / "data" / dataset.images[index]
        assert torch.equal(Preprocessing(size)(path), seen)
        assert seen.shape == (1, 3, size, size)


def lose(name: str):
    return lambda folder: (folder / name).unlink()


def flip_last_bit(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def put(name: str, text: str):
    return lambda folder: (folder / name).write_text(text)


def describe(**changes: object):
    """model.json with changes; None takes a key out."""
    values = {
        key: v for key, v in (DESCRIPTION | changes).items() if v is not None or key not in changes
    }
    return put("model.json", json.dumps(values))


DAMAGES = {
    "no weights": (lose("model.safetensors"), r"cannot load .*fold1/model\.safetensors: "),
    "cut short": (put("model.safetensors", "x" * 40), r"cannot load .*/model\.safetensors: "),
    "one bit": (flip_last_bit, r"fold1/model\.safetensors is damaged: its SHA-256 is not that"),
    "empty": (put("model.safetensors", ""), r"cannot load .*/model\.safetensors: "),
    "other network": (
        describe(classes=["a", "b", "c"]),
        r"fold1/model\.safetensors does not fit the network that model\.json describes",
    ),
    "no JSON": (put("model.json", "{"), r"cannot read .*fold1/model\.json: "),
    "no object": (put("model.json", "[]"), r"fold1/model\.json must hold a JSON object"),
    "no variant": (describe(variant=None), r"fold1/model\.json is damaged: it lacks 'variant'"),
    "no classes": (describe(classes=None), r"fold1/model\.json is damaged: it lacks 'classes'"),
    "wrong type": (describe(classes=3), r"fold1/model\.json is damaged: "),
    "preprocessing": (describe(preprocessing={"a": 1}), r"fold1/model\.json is damaged: "),
    "unfinished": (lose("model.json"), r"run has no trained fold 1 \(trained: none\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named(fold, damage):
    spoil, sentence = DAMAGES[damage]
    spoil(fold)
    with pytest.raises(InputError, match=sentence) as caught:
        load_model(fold.parent, 1)
    assert "\n" not in str(caught.value)


def test_an_unknown_variant_in_the_description_is_named(fold, monkeypatch):
    describe(variant="other")(fold)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"model\.json is damaged: variant must be one of hmc,"):
        load_model(fold)


def test_a_run_or_a_fold_that_is_not_there(fold, tmp_path):
    with pytest.raises(InputError, match=r"no such run: .*nowhere"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"run has no trained fold 0 \(trained: 1\)"):
        load_model(fold.parent)
    with pytest.raises(ValueError, match=r"backend must be one of auto, .*, got 'flash'"):
        load_model(fold, backend="flash")


def test_an_unfinished_fold_is_no_model(fold):
    (fold.parent / "fold0").mkdir()
    (fold.parent / "fold0" / "history.csv").touch()
    (fold.parent / "foldable").mkdir()
    assert trained_folds(fold.parent) == [1]
