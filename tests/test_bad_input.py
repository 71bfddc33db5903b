"""Bad settings, data and networks of `hmc-fast train`: one clear sentence, exit code 2, nothing
written.

Bad folders and runs stand in test_bad_run.py, the other commands in test_predict.py,
test_data_check.py and test_data_fetch.py.
"""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from hmc_fast.training import loop
from tiny import assert_refused, flags, make_folder, run, use_tiny_network

ROWS = ("mdb001 G NORM", "mdb003 D NORM", "mdb005 F CIRC B 477 133 30", "mdb007 F CIRC B 67 133 30")
ROWS += ("mdb009 G CIRC M 338 314 56", "mdb011 G CIRC M 318 359 27")


@pytest.fixture
def place(tmp_path, tmp_path_factory, monkeypatch) -> Path:
    """An empty working directory; the tiny network stands for every variant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    use_tiny_network(monkeypatch)
    return tmp_path


@pytest.fixture
def data(place) -> Path:
    """Class folders in the working directory that a test may spoil."""
    return make_folder(place / "data")


@pytest.fixture
def check_refused(place, capsys):
    """A function: `hmc-fast train WORDS` is refused with one sentence that has `parts`."""
    return lambda words, *parts: assert_refused(capsys, place, ["train", *words], *parts)


VALUES = {
    "--epochs 0": "--epochs must be at least 1, got 0",
    "--epochs 1.5": "argument --epochs: invalid int value: '1.5'",
    "--augmented 0": "--augmented must be at least 1, got 0",
    "--augmented 8": "give --epochs or --augmented, not both",
    "--lr 0": "--lr must be a number above 0, got 0.0",
    "--lr nan": "--lr must be a number above 0, got nan",
    "--lr=-1e-4": "--lr must be a number above 0, got -0.0001",
    "--lr inf": "--lr must be a number above 0, got inf",
    "--lr fast": "argument --lr: invalid float value: 'fast'",
    "--folds 1": "--folds must be at least 2, got 1",
    "--only-fold 9": "--only-fold must be from 0 to 1, got 9",
    "--only-fold -1": "--only-fold must be at least 0, got -1",
    "--batch-size 1": "--batch-size must be at least 2, got 1",
    "--seed -1": "--seed must be from 0 to 4294967295, got -1",
    "--seed 4294967296": "--seed must be from 0 to 4294967295, got 4294967296",
    "--image-size 63": "--image-size must be from 64 to 1024 pixels, got 63",
    "--image-size 1025": "--image-size must be from 64 to 1024 pixels, got 1025",
    "--validation-fraction 0.6": "--validation-fraction must be from 0 to 0.5, got 0.6",
    "--checkpoint-every nan": "--checkpoint-every must be at least 0, got nan",
    "--workers -1": "--workers must be at least 0, got -1",
    "--scale nan": "--scale must be a finite number, got nan",
    "--reduction 3": "argument --reduction: invalid choice: 3 (choose from 1, 2, 4, 8)",
    "--amp int8": "argument --amp: invalid choice: 'int8'",
    "--class-weights all": "argument --class-weights: invalid choice: 'all'",
    "--label third": "argument --label: invalid choice: 'third'",
    "--variant resnet": "argument --variant: invalid choice: 'resnet'",
    "--variant vit": "did you mean vit_b_16?",
    "--backend flash": "argument --backend: invalid choice: 'flash'",
    "--preset huge": "argument --preset: invalid choice: 'huge'",
    "--device tpu": "--device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "--device cpu:0": "--device must be auto, cpu, cuda or cuda:N, got 'cpu:0'",
    "--device cuda:": "--device must be auto, cpu, cuda or cuda:N, got 'cuda:'",
    "--classes normal": "--classes must name two or more different folders, got 'normal'",
    "--classes normal,normal": "two or more different folders, got 'normal,normal'",
    "--out": "argument --out: expected one argument",
    "--out=": "--out must be the name of a folder, got ''",
}


@pytest.mark.parametrize("words", VALUES)
def test_a_value_that_cannot_be_used_is_shown_with_its_rule(check_refused, data, words):
    check_refused(["--data", data, *flags(out="run"), *words.split(" ")], VALUES[words])


@pytest.mark.parametrize("words", list(VALUES)[:3])
def test_the_default_folder_is_not_made_by_a_refused_start(check_refused, place, data, words):
    check_refused(["--data", data, *flags(folds=9)], "too few for 9 folds")
    assert not (place / "runs").exists()
    check_refused(["--data", data, *flags(), *words.split(" ")], VALUES[words])
    assert not (place / "runs").exists()


MISSPELT = {
    "--epoch 3": "unrecognized arguments: --epoch 3; did you mean --epochs?",
    "--ephocs=3": "unrecognized arguments: --ephocs=3; did you mean --epochs?",
    "--batch 3": "did you mean --batch-size?",
    "--val 0.1": "did you mean --validation-fraction?",
    "--image_size 64": "did you mean --image-size?",
    "--resum": "did you mean --resume?",
    "--compile yes": "unrecognized arguments: yes (see hmc-fast train --help)",
    "-e 3": "unrecognized arguments: -e 3 (see hmc-fast train --help)",
}


@pytest.mark.parametrize("words", MISSPELT)
def test_a_flag_misspelt_or_abbreviated_is_refused_with_a_hint(check_refused, data, words):
    check_refused(["--data", data, *flags(out="run"), *words.split(" ")], MISSPELT[words])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trian"], "invalid choice: 'trian' (choose from"),
        (["trian"], "did you mean train?"),
        ([], "the following arguments are required: COMMAND (see hmc-fast --help)"),
    ],
)
def test_a_command_that_does_not_exist(place, capsys, words, reason):
    assert run(*words) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("hmc-fast: ")
    assert reason in sentence
    assert sentence.count("\n") == 1


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there(check_refused, data, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    sentence = f"--device {device} asked for, but torch sees 0 CUDA device(s); use --device cpu"
    check_refused(["--data", data, *flags(out="run", device=device)], sentence)


def test_an_unknown_backend_in_the_environment(check_refused, data, monkeypatch):
    monkeypatch.setenv("HMC_FAST_BACKEND", "flash")
    sentence = "HMC_FAST_BACKEND must be one of auto, reference, chunked, sdpa, triton, got 'flash'"
    check_refused(["--data", data, *flags(out="run")], sentence)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nowhere", "no such directory: {place}/nowhere (data is phantom, mias:DIR or a folder)"),
        ("mias:nowhere", "no such directory: {place}/nowhere"),
        ("~nobody-here/x", "no such directory: {place}/~nobody-here/x"),
        ("mias:~nobody-here/x", "no such directory: {place}/~nobody-here/x"),
        ("mias", "--data mias names no directory: write mias:DIR"),
        ("", "--data is empty"),
        (".", "{place} has no folder normal, benign, malignant; folders there: none"),
        ("x" * 300, "File name too long: {place}/xxx"),
    ],
)
def test_data_that_is_not_there(check_refused, place, spec, sentence):
    check_refused(["--data", spec, *flags(out="run")], sentence.format(place=place))


def test_classes_are_for_class_folders(check_refused):
    check_refused(
        ["--classes", "a,b", *flags(out="run")], "--classes is for class folders; phantom has"
    )


@pytest.mark.parametrize(
    ("keep", "reason"),
    [
        (100, "is damaged or cut short (the end of the PNG is missing)"),
        (0, "is empty"),
        (None, "is no PNG, PGM, JPEG or TIFF image"),
    ],
)
def test_a_file_that_is_no_whole_image_is_named(check_refused, data, keep, reason):
    path = data / "benign" / "b1_0.png"
    path.write_bytes(b"a text\n" * 9 if keep is None else path.read_bytes()[:keep])
    check_refused(["--data", data, *flags(out="run")], f"{path} {reason}")


def test_an_image_without_label_and_a_label_without_image(check_refused, data):
    table = (data / "patients.csv").read_text()
    Image.new("L", (16, 16)).save(data / "normal" / "new.png")
    check_refused(["--data", data, *flags(out="run")], "patients.csv has no row for normal/new.png")
    (data / "normal" / "new.png").unlink()
    (data / "patients.csv").write_text(table + "normal/lost.png,x\n")
    check_refused(
        ["--data", data, *flags(out="run")],
        "patients.csv, line 26: normal/lost.png: no such image",
    )


def test_an_empty_and_a_missing_class_folder(check_refused, data):
    for path in (data / "malignant").iterdir():
        path.unlink()
    check_refused(["--data", data, *flags(out="run")], f"class folder {data}/malignant has no .png")
    (data / "malignant").rmdir()
    check_refused(
        ["--data", data, *flags(out="run")], f"{data} has no folder malignant; folders there:"
    )


def test_fewer_patients_than_folds(check_refused, data):
    sentence = "class normal has 4 patients (by their worst image), too few for 5 folds"
    check_refused(["--data", data, *flags(out="run", folds=5)], sentence, "use --folds 4 or")


def test_the_same_picture_of_two_patients(check_refused, data):
    for name in ("b0_0", "b0_1", "b2_0", "b3_0"):
        shutil.copy(data / "benign" / "b1_0.png", data / "benign" / f"{name}.png")
    sentence = "the same picture is in two folds (benign/b0_0.png in fold"
    check_refused(
        ["--data", data, *flags(out="run")], sentence, "remove one, or give both one patient"
    )


def test_too_few_patients_for_a_validation_part(check_refused, data):
    words = ["--data", data, *flags(out="run"), "--validation-fraction", "0.2"]
    for path in data.glob("normal/n[23]*"):
        path.unlink()
    rows = (data / "patients.csv").read_text().splitlines()
    kept = [row for row in rows if "/n2" not in row and "/n3" not in row]
    (data / "patients.csv").write_text("\n".join(kept) + "\n")
    check_refused(words, "class normal has one patient in the training folds")


def test_mias_without_its_list(check_refused, place, make_mias):
    (make_mias(*ROWS, images=()) / "Info.txt").unlink()
    check_refused(["--data", f"mias:{place}", *flags(out="run")], f"{place}/Info.txt is missing")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("mdb013 Q NORM", "line 10: tissue 'Q' is not one of F, G, D"),
        ("mdb013 G CIRC B 1 2", "line 10: x, y and radius should be three whole numbers"),
        ("mdb013 G CIRC X 1 2 3", "line 10: severity 'X' is not B or M"),
        ("mdb013", "line 10: mdb013 lacks tissue and kind of abnormality"),
        ("mdb001 G NORM", "line 10: mdb001 is normal and has a second row"),
    ],
)
def test_a_malformed_list_is_named_with_its_line(check_refused, place, make_mias, row, reason):
    make_mias(*ROWS, row, images=())
    check_refused(["--data", f"mias:{place}", *flags(out="run")], f"{place}/Info.txt, {reason}")


def test_mias_with_an_image_or_a_row_too_many(check_refused, place, make_mias):
    make_mias(*ROWS)
    words = ["--data", f"mias:{place}", *flags(out="run")]
    (place / "mdb013.pgm").write_bytes((place / "mdb001.pgm").read_bytes())
    check_refused(words, f"{place}/Info.txt has no row for mdb013.pgm")
    (place / "mdb013.pgm").unlink()
    (place / "mdb001.pgm").unlink()
    check_refused(words, f"{place} has no .pgm or .png for mdb001, which Info.txt lists")


def test_a_truncated_film_is_named(check_refused, place, make_mias):
    make_mias(*ROWS)
    path = place / "mdb005.pgm"
    path.write_bytes(path.read_bytes()[:-1000])
    check_refused(["--data", f"mias:{place}", *flags(out="run")], f"{path} is damaged or cut short")


CONFIGS = {
    "{": "is no JSON file",
    "[1]": "must hold a JSON object",
    '{"lrr": 1}': "unknown setting 'lrr' in the configuration",
    '{"lr": "x"}': "setting 'lr' must be a number, got \"x\"",
    '{"lr": NaN}': "--lr must be a number above 0, got nan",
    '{"epochs": 2.5}': "setting 'epochs' must be a whole number or null, got 2.5",
    '{"epochs": true}': "setting 'epochs' must be a whole number or null, got true",
    '{"compile": 1}': "setting 'compile' must be true or false, got 1",
    '{"seed": null}': "setting 'seed' must be a whole number, got null",
    '{"variant": "vgg"}': "--variant must be one of hmc, hierarchical",
    '{"epochs": 1, "augmented": 3}': "give --epochs or --augmented, not both",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_configuration_that_cannot_be_used_is_named(check_refused, place, data, text):
    (place / "c.json").write_text(text)
    words = ["--config", "c.json", "--data", data, "--out", "run"]
    check_refused(words, f"c.json{' ' if text in ('{', '[1]') else ': '}{CONFIGS[text]}")


def test_a_configuration_that_is_not_there(check_refused, place):
    check_refused(["--config", "c.json"], "no such file: c.json")
    check_refused(["--config", "."], ". cannot be read: Is a directory")


@pytest.fixture
def own_network(monkeypatch, check_refused):
    """`hmc-fast train` builds its own networks."""
    monkeypatch.setattr(loop, "train", loop.train.func)


@pytest.mark.usefixtures("own_network")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights": "w.pth"}, "no such weights file: w.pth"),
        ({"weights": "broken.pth"}, "cannot read weights from broken.pth: it is no whole"),
        ({"weights": "empty.pth"}, "cannot read weights from empty.pth: it is no whole"),
        ({"weights": "list.pth"}, "list.pth holds no state dict (a dictionary of tensors)"),
        ({"weights": "other.safetensors"}, "is no ResNet50 checkpoint: missing: bn1.bias"),
        ({"weights": "w", "variant": "vgg16"}, "weights are a ResNet50's; vgg16 is trained from"),
        (
            {"variant": "vit_b_16", "image_size": 100},
            "vit_b_16 needs an image size that is a multiple of 16, got 100",
        ),
    ],
)
def test_a_network_that_cannot_be_built(check_refused, place, data, settings, sentence):
    (place / "broken.pth").write_bytes(bytes(range(256)) * 4)
    (place / "empty.pth").touch()
    torch.save([1, 2], place / "list.pth")
    save_file({"a": torch.zeros(1)}, place / "other.safetensors")
    check_refused(["--data", data, *flags(out="run", **settings)], sentence)
