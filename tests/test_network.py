"""The networks: sizes and arithmetic against the paper's equations, backends against each other,
checkpoints."""

import itertools

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast.errors import InputError
from hmc_fast.models import VARIANTS, create_model
from hmc_fast.models.network import HMCNet

FAMILY = ["hmc", "hierarchical", "multiscale", "resnet50"]
BACKENDS = ["reference", "chunked", "sdpa"]
SIZES = {  # variant, reduction: parameters, GMAC at 224 x 224, by hand from the equations
    ("hmc", 8): (33_106_695, 9.1730),
    ("hierarchical", 8): (23_924_741, 7.7873),
    ("multiscale", 8): (32_696_133, 5.4728),
    ("resnet50", 8): (23_514_179, 4.0871),
    ("hmc", 4): (34_500_295, 9.7381),
    ("hmc", 2): (37_287_495, 10.8683),
    ("hmc", 1): (42_861_895, 13.1287),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("variant", "reduction"), SIZES)
def test_parameters_and_macs_equal_the_closed_form(variant, reduction, backend):
    with torch.device("meta"):
        model = create_model(variant, reduction=reduction, backend=backend).eval()
        image = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    parameters, gmac = SIZES[variant, reduction]
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=5e-5)


def test_fvcore_counts_the_same_macs():
    fvcore = pytest.importorskip("fvcore.nn")
    model = create_model("hmc", backend="reference").eval()
    analysis = fvcore.FlopCountAnalysis(model, torch.zeros(1, 3, 224, 224))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    macs = sum(analysis.by_operator()[name] for name in ("conv", "linear", "bmm"))
    assert macs / 1e9 == pytest.approx(9.1730, abs=5e-5)


def with_random_gamma(model):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.copy_(torch.randn(1, generator=generator))
    return model


def logits_and_gradients(model, images):
    model.zero_grad()
    logits = model(images)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(images)) % 3).backward()
    return {"logits": logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()}


@pytest.mark.parametrize("size", [(64, 64), (96, 130), (224, 224)], ids=str)
@pytest.mark.parametrize("variant", ["hmc", "hierarchical", "multiscale"])
def test_backends_agree_in_float64(variant, size):
    torch.manual_seed(0)
    model = with_random_gamma(create_model(variant).double().eval())
    images = torch.randn(2 if size[0] < 224 else 1, 3, *size, dtype=torch.float64)
    results = {}
    for backend in BACKENDS:
        for block in model.attention_blocks().values():
            block.backend = backend
        results[backend] = logits_and_gradients(model, images)
    for backend, name in itertools.product(BACKENDS[1:], results["reference"]):
        difference = (results[backend][name] - results["reference"][name]).abs().max()
        assert difference <= 1e-10 * max(1, results["reference"][name].abs().max()), (backend, name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="interprets the kernels on a CPU")
@pytest.mark.parametrize(
    ("size", "form"),
    [
        pytest.param((64, 64), "direct", id="short keys"),
        pytest.param((72, 80), "direct", id="streamed keys in HA1", marks=pytest.mark.slow),
        pytest.param((72, 80), "reassociated", id="reassociated", marks=pytest.mark.slow),
    ],
)
def test_a_training_step_with_the_fused_kernels_matches_the_reference(size, form):
    """Loss and every gradient: at most twice the error of float32 without the kernels and the
    rounding of what is compared, each measured from float64. SiLU stands in for ReLU, whose kinks
    an activation near zero passes by chance, whatever computes it."""
    torch.manual_seed(0)
    state = with_random_gamma(create_model("hmc")).state_dict()
    images = torch.randn(2, 3, *size)

    def step(backend, dtype):
        model = create_model("hmc", attention_form=form, backend=backend)
        model.load_state_dict(state)
        for module in [m for m in model.modules() if hasattr(m, "relu")]:
            module.relu = torch.nn.SiLU()
        return step_results(model.to(dtype), images.to(dtype))

    truth, fused = step("reference", torch.float64), step("triton", torch.float32)
    plain = [step(backend, torch.float32) for backend in BACKENDS]
    for name, expected in truth.items():
        error = max((result[name] - expected).norm() for result in plain)
        rounding = torch.finfo(torch.float32).eps * expected.norm()
        assert (fused[name] - expected).norm() <= 2 * (error + rounding), name


def step_results(model, images):
    """The loss and every gradient in float64; the gradients of the four gammas, single numbers, as
    one vector."""
    found = logits_and_gradients(model.train(), images)
    gammas = [found.pop(name) for name in list(found) if name.endswith("gamma")]
    return {n: t.double() for n, t in (found | {"gammas": torch.cat(gammas)}).items()}


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "vit_b_16"])
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (131, 64)], ids=str)
def test_any_size_gives_logits(variant, size):
    model = create_model(variant).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, *size)).shape == (1, 3)


@pytest.mark.slow
def test_1024_pixels_give_logits():
    with torch.no_grad():
        assert create_model("hmc").eval()(torch.zeros(1, 3, 1024, 1000)).isfinite().all()


def test_vit_takes_the_size_it_was_made_for():
    model = create_model("vit_b_16", image_size=64).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(ValueError, match="multiple of 16, got 100"):
        create_model("vit_b_16", image_size=100)


def test_with_gamma_zero_hmc_is_its_resnet50():
    torch.manual_seed(0)
    hmc = create_model("hmc").eval()
    plain = torchvision.models.resnet50(num_classes=3).eval()
    plain.load_state_dict({k: v for k, v in hmc.state_dict().items() if k in plain.state_dict()})
    images = torch.randn(2, 3, 96, 64)
    torch.testing.assert_close(hmc(images), plain(images))


def test_resnet50_is_torchvisions():
    plain = torchvision.models.resnet50(num_classes=3)
    ours = create_model("resnet50")
    ours.load_state_dict(plain.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(plain.state_dict())


def test_blocks_stand_where_the_paper_has_them():
    shapes = {}
    model = create_model("hmc").eval()
    for name, block in model.attention_blocks().items():
        block.register_forward_hook(
            lambda m, i, o, name=name: shapes.update({name: (*o.shape[1:],)})
        )
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert shapes == {
        "ha1": (256, 56, 56),
        "ha2": (512, 28, 28),
        "ca23": (1024, 14, 14),
        "ca34": (2048, 7, 7),
    }


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("classes", [3, 1000])
def test_a_torchvision_checkpoint_loads_into_the_backbone(tmp_path, suffix, classes):
    torch.manual_seed(5)
    state = torchvision.models.resnet50(num_classes=classes).state_dict()
    path = tmp_path / f"resnet50{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    model = create_model("hmc", weights=path)
    assert torch.equal(model.layer3[2].conv2.weight, state["layer3.2.conv2.weight"])
    assert torch.equal(model.fc.weight, state["fc.weight"]) == (classes == 3)


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    save_file(state, tmp_path / "resnet18.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    for name, message in [
        ("resnet18.safetensors", "no ResNet50 checkpoint: missing: layer1.0.bn3"),
        ("broken.pth", "cannot read weights from"),
        ("absent.pth", "no such weights file"),
    ]:
        with pytest.raises(InputError, match=message):
            create_model("hmc", weights=tmp_path / name)


def test_a_pickle_in_a_checkpoint_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match="cannot read weights"):
        create_model("hmc", weights=tmp_path / "evil.pth")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "resnet"}, "variant must be one of hmc, hierarchical"),
        ({"num_classes": 1}, "num_classes must be at least 2"),
        ({"reduction": 3}, "reduction must be 1, 2, 4 or 8"),
        ({"variant": "vgg16", "weights": "x.pth"}, "weights are a ResNet50's"),
        ({"backend": "flash"}, "backend must be one of"),
        ({"scale": float("inf")}, "scale must be a finite number"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_model(**arguments)


def test_fewer_blocks_make_a_small_network():
    assert HMCNet(layers=(1, 1, 1, 1))(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
