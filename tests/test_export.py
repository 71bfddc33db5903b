"""`hmc-fast export`: the file runs without us and agrees with the network; what goes wrong is one
sentence, and leaves nothing behind."""

import copy
import functools
import json
import logging
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from hmc_fast import models
from hmc_fast.cli import export
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.files import sha256_file
from hmc_fast.models.exported import FOLDED, METADATA, onnx_file, score_bytes, traced
from hmc_fast.models.folded import fold
from hmc_fast.models.network import HMCNet
from hmc_fast.models.saved import save_model
from random_network import phantom_images, random_network, randomized
from tiny import CLASSES, assert_refused, contents, run, tiny_layers, use_tiny_network

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = {"hmc": (True, True), "multiscale": (False, True), "resnet50": (False, False)}
BATCHES = (1, 5, 3)
DESCRIPTION = {
    "variant": "hmc",
    "reduction": 8,
    "scale": None,
    "classes": list(CLASSES),
    "image_size": 64,
    "preprocessing": Preprocessing(64).to_dict(),
    "fold": 0,
    "version": "0.1.0",
}
EXPORTS = {  # of small networks: variant and flags
    "folded.onnx": ("hmc", "--format", "onnx"),
    "plain.onnx": ("resnet50", "--format", "onnx", "--plain"),
    "grey.onnx": ("multiscale", "--format", "onnx", "--grayscale"),
    "folded.pt2": ("hmc", "--format", "torch-export"),
}


def small_layers(variant, classes, **options):
    """The variant with one bottleneck block a stage."""
    hierarchical, multiscale = BLOCKS[variant]
    options = {key: options[key] for key in ("reduction", "scale", "backend")}
    return HMCNet(
        classes, hierarchical=hierarchical, multiscale=multiscale, layers=(1,) * 4, **options
    )


@functools.cache
def small_variant(variant):
    """The same with random parameters, float32."""
    torch.manual_seed(0)
    network = randomized(small_layers(variant, 3, reduction=8, scale=None, backend="auto"))
    return with_own_eps(network)


def with_own_eps(network):
    """The network as `load_model` builds it: eps is nothing that a run keeps."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = nn.BatchNorm2d(1).eps
    return network


def save_run(folder, variant, model, **changes):
    fold_folder = folder / f"fold{changes.get('fold', 0)}"
    fold_folder.mkdir(parents=True)
    save_model(fold_folder, model, DESCRIPTION | {"variant": variant} | changes)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _no_trace():
    """torch writes down all that it traces where a log handler listens, and pytest's does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function: the path of a file of EXPORTS, made once."""
    root = tmp_path_factory.mktemp("export")

    @functools.cache
    def make(name):
        variant, *flags = EXPORTS[name]
        if not (root / variant).exists():
            save_run(root / variant, variant, small_variant(variant))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(models, "create_model", small_layers)
            assert run("export", root / variant, *flags, "--out", root / name, "--quiet") == 0
        return root / name

    return make


@pytest.fixture
def tiny_run(tmp_path, monkeypatch):
    """A working directory with run/fold2 of a tiny network, which is exported in no time."""
    use_tiny_network(monkeypatch)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return save_run(tmp_path / "run", "hmc", tiny_layers(3), fold=2)


def loaded(path):
    """The file as a function of images, and the metadata in it, without hmc_fast."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        metadata = session.get_modelmeta().custom_metadata_map[METADATA]
        return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), (
            json.loads(metadata)
        )
    extra = {METADATA: ""}
    program = torch.export.load(path, extra_files=extra).module()
    return torch.no_grad()(program), json.loads(extra[METADATA])


@torch.no_grad()
def difference(call, network, images, channels=3):
    """The largest |Δp| from the network in float64, at every batch size."""
    expected = copy.deepcopy(network).double()(images.double()).softmax(1)
    assert expected.std(0).min() > 0.01  # the films differ: a constant would be found
    parts = [call(images[:n, :channels]).softmax(1) - expected[:n] for n in BATCHES]
    return max(part.abs().max().item() for part in parts)


@pytest.mark.parametrize("name", EXPORTS)
def test_the_file_agrees_with_the_network_at_every_batch(exported, name):
    call, about = loaded(exported(name))
    channels = about["preprocessing"]["channels"]
    assert channels == (1 if name == "grey.onnx" else 3)
    network = small_variant(EXPORTS[name][0])
    assert difference(call, network, phantom_images(5), channels) < 1e-4


@pytest.mark.parametrize("name", ["plain.onnx", "folded.pt2"])
def test_the_file_says_what_a_user_needs(exported, name):
    about = loaded(exported(name))[1]
    variant = EXPORTS[name][0]
    weights = exported(name).parent / variant / "fold0" / "model.safetensors"
    assert about.pop("notice") == "For research; not a medical device."
    assert f"torch {torch.__version__}" in about.pop("exported_by")
    assert about == {
        "classes": list(CLASSES),
        "preprocessing": Preprocessing(64).to_dict(),
        "form": name.split(".")[0],
        "dtype": "float32",
        "weights_sha256": sha256_file(weights),
        "variant": variant,
        **{key: DESCRIPTION[key] for key in ("reduction", "scale", "fold", "version")},
    }


@pytest.mark.parametrize("name", [name for name in EXPORTS if name.endswith(".onnx")])
def test_onnx_files_are_valid_and_of_the_standard_domain(exported, name):
    model = onnx.load(exported(name))
    onnx.checker.check_model(model, full_check=True)
    assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", 20)}
    assert {node.domain for node in model.graph.node} == {""}
    assert {node.op_type for node in model.graph.node}.isdisjoint({"ScatterND", "If", "Loop"})
    (images,), (logits,) = model.graph.input, model.graph.output
    shapes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (images, logits)
    ]
    assert (images.name, logits.name) == ("images", "logits")
    assert shapes == [["batch", 1 if name == "grey.onnx" else 3, 64, 64], ["batch", 3]]


@pytest.mark.parametrize("name", ["plain.onnx", "folded.pt2"])
def test_no_path_of_this_machine_is_in_the_file(exported, name):
    data = exported(name).read_bytes()
    assert str(ROOT).encode() not in data
    assert str(exported(name).parent).encode() not in data
    assert sys.prefix.encode() not in data


def test_a_loaded_program_takes_any_layout_and_no_other_size(exported):
    call, _ = loaded(exported("folded.pt2"))
    images = phantom_images(5)
    other_layout = images.to(memory_format=torch.channels_last)
    torch.testing.assert_close(call(other_layout), call(images), rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError, match="64"):
        call(torch.zeros(1, 3, 96, 96))


def snippet(name):
    """The code under a marker of docs/export.md."""
    text = (ROOT / "docs" / "export.md").read_text()
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize(
    ("name", "file", "packages"),
    [
        ("onnx", "folded.onnx", {"json", "numpy", "onnxruntime", "PIL"}),
        ("torch-export", "folded.pt2", {"json", "torch"}),
    ],
)
def test_the_lines_in_the_docs_run_as_they_stand(
    exported, tmp_path, monkeypatch, name, file, packages
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exported-fold0").with_suffix(exported(file).suffix).symlink_to(exported(file))
    film = np.random.default_rng(0).integers(0, 256, (200, 150), dtype=np.uint8)
    Image.fromarray(film).save("film.png")
    images = Preprocessing(64)("film.png")
    with torch.no_grad():
        expected = small_variant("hmc")(images).softmax(1)[0].tolist()
    lines, scope = snippet(name), {"images": images}
    assert set(re.findall(r"^(?:import|from) (\w+)", lines, re.MULTILINE)) == packages
    exec(lines, scope)
    found = scope["probabilities"]
    found = list(found.values()) if isinstance(found, dict) else found[0].tolist()
    assert scope["about"]["classes"] == list(CLASSES)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_what_is_printed(tiny_run, capsys):
    assert run("export", "run", "--format", "torch-export", "--plain") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "exporting fold 2 of run: hmc, plain, 64 px"
    assert re.fullmatch(
        r"largest difference in a probability, .* batches of 1 and 5: \d\.\de-\d\d", lines[1]
    )
    assert re.fullmatch(r"run/exported-fold2-plain\.pt2: 0\.\d MB", lines[2])
    assert lines[3:] == ["next: run it as docs/export.md says"]
    assert list(contents(tiny_run)) == [
        *("exported-fold2-plain.pt2", "fold2", "fold2/model.json", "fold2/model.safetensors")
    ]
    assert run("export", "run/fold2", "--format", "torch-export", "--plain", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert (tiny_run / "fold2" / "exported-fold2-plain.pt2").is_file()


def test_another_image_size_is_in_the_graph_and_in_the_metadata(tiny_run):
    words = ["--format", "torch-export", "--plain", "--image-size", 96, "--out", "x.pt2"]
    assert run("export", "run", "--fold", 2, *words) == 0
    call, about = loaded(Path("x.pt2"))
    assert about["preprocessing"]["image_size"] == 96
    assert call(torch.zeros(4, 3, 96, 96)).shape == (4, 3)


BAD = {
    "nowhere --format onnx": "no such run: nowhere",
    "empty --format onnx": "empty has no trained fold 0 (trained: none)",
    "run --format onnx --fold 0": "run has no trained fold 0 (trained: 2)",
    "run/fold2 --format onnx --fold 0": "run/fold2 is the folder of fold 2: leave --fold 0 out",
    "run": "the following arguments are required: --format",
    "run --format coreml": "argument --format: invalid choice: 'coreml'",
    "run --format onnx --folded --plain": "not allowed with argument --folded",
    "run --format onnx --folded": "cannot export the folded form: only HMC-Net and ",
    "run --format onnx --plain --grayscale": "--grayscale needs the folded form",
    "run --format onnx --image-size 32": "--image-size must be from 64 to 1024 pixels, got 32",
    "run --format onnx --plain --out none/x.onnx": "cannot write none/x.onnx: none is no folder",
    "run --format onnx --plain --out run": "cannot write run: it is a folder",
    "run --format torch-export --plain --out /proc/x.pt2": "cannot write /proc/x.pt2: ",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_use_is_one_sentence(tiny_run, capsys, words):
    (tiny_run.parent / "empty").mkdir()
    assert_refused(capsys, tiny_run.parent, ["export", *words.split(), "--quiet"], BAD[words])


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_damaged_run_is_one_sentence(tiny_run, capsys, name):
    (tiny_run / "fold2" / name).write_text("{")
    words = ["export", "run", "--format", "onnx", "--plain"]
    assert_refused(capsys, tiny_run, words, f"run/fold2/{name}: ")


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_cure(tiny_run, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    words = ["export", "run", "--format", "onnx", "--plain"]
    assert_refused(capsys, tiny_run, words, package, 'pip install "hmc-fast[export]"')
    assert run("export", "run", "--format", "torch-export", "--plain", "--quiet") == 0


def test_without_onnxruntime_the_file_is_written_and_not_compared(tiny_run, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert run("export", "run", "--format", "onnx", "--plain") == 0
    printed = capsys.readouterr().out
    assert "not compared with the network: onnxruntime is missing" in printed
    assert 'pip install "hmc-fast[export]"' in printed
    onnx.checker.check_model(tiny_run / "exported-fold2-plain.onnx")


@pytest.mark.parametrize(
    ("file_format", "shift", "old"),
    [
        ("onnx", 0.1, b"an older file"),
        ("torch-export", float("nan"), None),
    ],
)
def test_a_program_that_differs_is_not_kept(tiny_run, capsys, monkeypatch, file_format, shift, old):
    def wrong(model, grayscale):
        other = tiny_layers(3)
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            other[-1].bias[0] += shift
        return other.eval()

    monkeypatch.setattr(export, "folded_for_export", wrong)
    if old:
        Path("x").write_bytes(old)
    words = ["export", "run", "--format", file_format, "--quiet", "--out", "x"]
    shown = "by up to nan in" if shift != shift else "by up to 2."
    assert_refused(capsys, tiny_run.parent, words, shown, "more than 1e-04: nothing was written")


@pytest.mark.parametrize("variant", ["vgg16", "vit_b_16"])
def test_the_baselines_are_plain_unless_folded_is_asked_for(tmp_path, capsys, monkeypatch, variant):
    use_tiny_network(monkeypatch)
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "run", variant, tiny_layers(3))
    words = ["export", "run", "--format", "torch-export"]
    assert_refused(capsys, tmp_path, [*words, "--folded", "--quiet"], "give --plain")
    assert run(*words, "--quiet") == 0
    assert (tmp_path / "run" / "exported-fold0-plain.pt2").is_file()
    if variant == "vit_b_16":
        sentence = "a vit_b_16 takes the size it was trained at, 64: leave --image-size 96 out"
        assert_refused(capsys, tmp_path, [*words, "--image-size", 96], sentence)


def test_scores_that_cannot_fit_are_refused_first(tmp_path, capsys, monkeypatch):
    assert score_bytes(small_variant("hmc"), 224, 5) == 2 * 4 * 5 * 3136**2
    assert score_bytes(tiny_layers(3), 224, 5) == 0
    monkeypatch.setattr(models, "create_model", small_layers)
    save_run(tmp_path / "run", "hmc", small_variant("hmc"))
    monkeypatch.setattr("hmc_fast.cli.export.os.sysconf", lambda name: 2**16)  # 4 GiB
    words = ["export", tmp_path / "run", "--format", "onnx", "--image-size", 512]
    assert_refused(capsys, tmp_path, words, "take 10 GiB, and this machine has 4")


def test_another_backend_is_not_exported():
    network = HMCNet(layers=(1,) * 4, backend="chunked").eval()
    with pytest.raises(ValueError, match='an export takes backend="reference", got chunked'):
        traced(network, 64)
    with pytest.raises(ValueError, match='an export takes backend="reference", got auto'):
        traced(fold(small_variant("hmc"), FOLDED), 64)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["--folded", "--plain"])
@pytest.mark.parametrize(
    ("file_format", "suffix", "size"), [("onnx", ".onnx", 224), ("torch-export", ".pt2", 64)]
)
def test_the_whole_network(tmp_path, form, file_format, suffix, size):
    network = with_own_eps(random_network(dtype=torch.float32))
    save_run(tmp_path / "run", "hmc", network, preprocessing=Preprocessing(size).to_dict())
    out = tmp_path / f"x{suffix}"
    words = ["--format", file_format, form, "--out", out, "--quiet"]
    assert run("export", tmp_path / "run", *words) == 0
    assert difference(loaded(out)[0], network, phantom_images(5, size)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["vgg16", "vit_b_16"])
def test_whole_baselines(tmp_path, variant):
    torch.manual_seed(0)
    network = models.create_model(variant, image_size=64).eval()
    head = network.classifier[-1] if variant == "vgg16" else network.heads.head
    torch.nn.init.normal_(head.weight, std=0.5)
    (tmp_path / "x.onnx").write_bytes(onnx_file(traced(network, 64), "{}"))
    call, _ = loaded(tmp_path / "x.onnx")
    with torch.no_grad():
        logits = [(call(images), network(images)) for images in phantom_images(6).split((1, 5))]
    for found, expected in logits:
        torch.testing.assert_close(found.softmax(1), expected.softmax(1), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_aot_inductor_takes_the_program(exported, tmp_path):
    program = torch.export.load(exported("folded.pt2"))
    package = str(tmp_path / "package.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=package)
    compiled = torch.no_grad()(torch._inductor.aoti_load_package(package))
    assert difference(compiled, small_variant("hmc"), phantom_images(5)) < 1e-4
