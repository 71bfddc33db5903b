"""One training step: its loss and update by hand, low precision, what is compiled, and an
evaluation that changes nothing."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch._dynamo.exc import RecompileError
from torch._dynamo.utils import counters

from hmc_fast.data.augment import augment, draw_parameters, normalise
from hmc_fast.models import VARIANTS, create_model
from hmc_fast.models.network import HMCNet
from hmc_fast.training import step
from hmc_fast.training.step import Precision, Trainer, balanced_class_weights, choose_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OFF = Precision("off", "")
LR = 1e-3


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(8, 3),
    )  # fmt: skip


def batch(size: int = 6, pixels: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(images, augmentation parameters, labels)."""
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (size, 1, pixels, pixels), dtype=np.uint8)
    )
    return images, draw_parameters(0, [0] * size, range(size)), torch.arange(size) % 3


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5])])
def test_loss_and_update_are_those_of_torch(weights):
    trainer, twin = Trainer(tiny(), CPU, OFF, LR, False), tiny()
    trainer.reset(twin.state_dict(), weights)
    images, parameters, labels = batch()
    optimizer = torch.optim.Adam(twin.parameters(), lr=LR, fused=False, foreach=False)
    for _ in range(3):
        torch.manual_seed(1)  # of the dropout
        logits = twin.train()(augment(images, parameters))
        expected = F.cross_entropy(logits, labels, weight=weights)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.manual_seed(1)
        loss, correct = trainer.step(images, parameters, labels)
        torch.testing.assert_close(loss, expected.detach())
        assert correct == (logits.argmax(1) == labels).sum()
    torch.testing.assert_close(trainer.model.state_dict(), twin.state_dict())


def test_the_loss_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.tensor([1.0, 2.0, 3.0]).log()  # probabilities 1/6, 2/6 and 3/6
    trainer = Trainer(model, CPU, OFF, LR, False)
    images, parameters, _ = batch(2)
    trainer.reset(weights_of(model), torch.tensor([3.0, 1.0, 1.0]))
    loss, correct = trainer.step(images, parameters, torch.tensor([0, 2]))
    assert loss.item() == pytest.approx((3 * np.log(6) + np.log(2)) / 4)
    assert correct.item() == 1


def test_an_evaluation_changes_nothing_and_does_not_depend_on_its_batches():
    trainer = Trainer(tiny(), CPU, OFF, LR, False)
    images, parameters, labels = batch()
    trainer.step(images, parameters, labels)
    before, random = weights_of(trainer.model), torch.get_rng_state()
    logits = trainer.predict(images, 6)
    assert logits.shape == (6, 3)
    assert not logits.requires_grad
    assert equal(before, trainer.model.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    for batch_size in (1, 4, 100):
        torch.testing.assert_close(trainer.predict(images, batch_size), logits)
    torch.testing.assert_close(trainer.model.eval()(normalise(images)).detach(), logits)
    trainer.step(images, parameters, labels)
    assert trainer.model.training
    assert not torch.equal(before["1.running_mean"], trainer.model[1].running_mean)


def test_a_reset_forgets_the_fold_before():
    trainer, images = Trainer(tiny(), CPU, OFF, LR, False), batch()
    fresh = weights_of(trainer.model)
    torch.manual_seed(3)
    first = [trainer.step(*images)[0] for _ in range(3)]
    trainer.reset(fresh, None)
    assert trainer.optimizer.state == {}
    torch.manual_seed(3)
    assert [trainer.step(*images)[0] for _ in range(3)] == first


@pytest.mark.parametrize(("amp", "tolerance"), [("bf16", 0.02), ("fp16", 0.004)])
def test_low_precision_keeps_float32_weights_and_a_near_loss(amp, tolerance):
    exact, low = (Trainer(tiny(), CPU, Precision(p, ""), LR, False) for p in ("off", amp))
    assert low.scaler.is_enabled() == (amp == "fp16")
    for _ in range(3):
        torch.manual_seed(1)
        expected, _ = exact.step(*batch())
        torch.manual_seed(1)
        loss, _ = low.step(*batch())
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
    assert {p.dtype for p in low.model.parameters()} == {torch.float32}
    assert low.predict(batch()[0], 4).dtype == torch.float32
    torch.testing.assert_close(low.predict(batch()[0], 4), exact.predict(batch()[0], 4),
                               rtol=0, atol=tolerance * 5)  # fmt: skip


def test_the_autocast_is_that_of_the_precision():
    seen = []
    model = tiny()
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    for amp in ("off", "bf16", "fp16"):
        trainer = Trainer(model, CPU, Precision(amp, ""), LR, False)
        trainer.step(*batch())
        trainer.predict(batch()[0], 6)
    assert seen[::2] == [torch.float32, torch.bfloat16, torch.float16]  # the steps
    assert seen[1::2] == [torch.float32] * 3  # predictions are what load_model gives


def test_an_overflow_in_fp16_skips_the_step_and_halves_the_scale():
    trainer = Trainer(tiny(), CPU, Precision("fp16", ""), LR, False)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126)
    parameters = [p.clone() for p in trainer.model.parameters()]
    trainer.step(*batch())
    assert all(torch.equal(a, b) for a, b in zip(parameters, trainer.model.parameters()))  # noqa: B905
    assert trainer.scaler.get_scale() == 2.0**125


def test_balanced_weights_by_hand_and_by_scikit_learn():
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    weights = balanced_class_weights(labels, 3)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([6 / 9, 6 / 3, 6 / 6]))
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(weights.double(), torch.from_numpy(expected), check_dtype=False,
                               rtol=1e-6, atol=0)  # fmt: skip
    assert balanced_class_weights(torch.tensor([0, 0]), 3).isfinite().all()


def choose(amp: str = "auto", device=CPU, *, deterministic=False, steps=100) -> Precision:
    return choose_precision(amp, tiny(), device, (4, 64), deterministic=deterministic, steps=steps)


@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_a_precision_that_is_asked_for_is_taken(amp):
    for device in (CPU, CUDA):
        assert choose(amp, device, deterministic=True, steps=1) == (amp, "asked for")


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
def test_steps_on_a_gpu_never_wait_for_it(amp):
    trainer = Trainer(tiny(), CUDA, Precision(amp, ""), LR, False)
    tensors = [tensor.cuda() for tensor in batch()]
    trainer.step(*tensors)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error" if amp != "fp16" else "default")  # the scaler waits
    try:
        losses = torch.stack([trainer.step(*tensors)[0] for _ in range(3)])
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert losses.isfinite().all()


@pytest.mark.gpu
def test_the_compiled_step_on_a_gpu_equals_the_eager_one():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = HMCNet(layers=(1, 1, 1, 1))
        trainer = Trainer(model, CUDA, Precision("off", ""), LR, compiled)
        tensors = [tensor.cuda() for tensor in batch(4, 64)]
        losses.append(torch.stack([trainer.step(*tensors)[0] for _ in range(3)]))
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("has_bf16", "amp"), [(True, "bf16"), (False, "fp16")])
def test_the_precision_on_a_gpu(monkeypatch, has_bf16, amp):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert choose(device=CUDA, deterministic=True).amp == amp


@pytest.mark.parametrize(
    ("flags", "options", "reason"),
    [
        ([], {}, "the CPU has no bf16 products"),
        (["amx_bf16"], {"deterministic": True}, "no choice by timing under --deterministic"),
        (["amx_bf16"], {"steps": 29}, "the run is too short to measure on a CPU"),
    ],
)
def test_the_precision_on_a_cpu_without_a_measurement(monkeypatch, flags, options, reason):
    monkeypatch.setattr(step, "cpu", lambda: {"bf16": flags})
    monkeypatch.setattr(step, "_faster_on_cpu", lambda *_: pytest.fail("nothing may be timed"))
    assert choose(**options) == ("off", reason)


@pytest.mark.parametrize(("bf16_seconds", "amp"), [(0.5, "bf16"), (0.96, "off"), (2.0, "off")])
def test_on_a_cpu_the_faster_precision_is_measured(monkeypatch, bf16_seconds, amp):
    monkeypatch.setattr(step, "cpu", lambda: {"bf16": ["amx_bf16"]})
    now = [0.0]

    def slow_step(self, *tensors):
        now[0] += {"off": 1.0, "bf16": bf16_seconds}[self.precision.amp]

    monkeypatch.setattr(Trainer, "step", slow_step)
    monkeypatch.setattr(step.time, "perf_counter", lambda: now[0])
    precision = choose(steps=30)
    assert precision.amp == amp
    ratio = f"{1 / bf16_seconds:.2f}x"
    assert precision.reason == f"measured here: a step in bf16 is {ratio} as fast as in float32"


def test_the_measurement_runs_real_steps(monkeypatch):
    monkeypatch.setattr(step, "cpu", lambda: {"bf16": ["amx_bf16"]})
    precision = choose()
    assert precision.amp in ("bf16", "off")
    assert precision.reason.startswith("measured here")


def test_deterministic_algorithms_are_left_as_they_were(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with step.deterministic_algorithms(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    with step.deterministic_algorithms(False):
        assert not torch.are_deterministic_algorithms_enabled()


SMALL = HMCNet(layers=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("asked", "model", "device", "compiled", "start"),
    [
        (False, tiny(), CPU, False, "not compiled (--compile)"),
        (True, tiny(), CUDA, True, "torch.compile of the whole step"),
        (True, tiny(), CPU, False, "not compiled: on a CPU only attention blocks are"),
        (True, SMALL, CPU, True, "torch.compile of the attention blocks only"),
    ],
)
def test_the_plan_is_told(asked, model, device, compiled, start):
    plan = step.compile_plan(asked, model, device)
    assert plan[0] == compiled
    assert plan[1].startswith(start)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    compiled, sentence = step.compile_plan(True, SMALL, CPU)
    assert not compiled
    assert "needs a C++ compiler" in sentence


# torch's own warning, which it hides by itself where warnings are no errors
LEAF_WARNING = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a le")


@pytest.fixture
def tracing(monkeypatch):
    """torch.compile traces and then runs eagerly; its counters start from nothing."""
    monkeypatch.setattr(step, "COMPILE_BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield torch._dynamo.config.patch(error_on_recompile=True)
    torch._dynamo.reset()


def steps_after_warm_up(trainer: Trainer) -> None:
    """Steps, an evaluation in batches of other sizes, a second fold, again."""
    fresh = weights_of(trainer.model)
    for _ in range(2):
        trainer.step(*batch(4, 64))
        trainer.predict(batch(5, 64)[0], 3)
        trainer.step(*batch(4, 64))
        trainer.reset(fresh, None)
    trainer.step(*batch(4, 64))


@LEAF_WARNING
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_attention_blocks_are_compiled_once_each(tracing, amp):
    trainer = Trainer(HMCNet(layers=(1, 1, 1, 1)), CPU, Precision(amp, ""), LR, True)
    trainer.step(*batch(4, 64))
    with tracing:
        steps_after_warm_up(trainer)
    assert counters["stats"]["unique_graphs"] == 4
    assert not counters["graph_break"]
    with tracing, pytest.raises(RecompileError):  # the watch does bite
        trainer.step(*batch(3, 64))


@pytest.mark.parametrize("backend", ["reference", "chunked", "sdpa"])
def test_the_whole_step_is_one_graph_and_compiled_once(tracing, backend):
    model = HMCNet(layers=(1, 1, 1, 1), backend=backend)
    eager = Trainer(model, CPU, OFF, LR, False)
    fresh = weights_of(model)
    expected, correct = eager.step(*batch(4, 64))
    trainer = Trainer(model, CPU, OFF, LR, False)
    trainer.compile_whole_step()
    trainer.reset(fresh, None)
    loss, right = trainer.step(*batch(4, 64))
    torch.testing.assert_close(loss, expected)
    assert right == correct
    with tracing:
        steps_after_warm_up(trainer)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, torch.ones(3)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_whole_step_of_every_variant_is_one_graph(tracing, variant, weights):
    model = create_model(variant, image_size=64)
    trainer = Trainer(model, CPU, Precision("bf16", ""), LR, False)
    trainer.compile_whole_step()
    trainer.reset(weights_of(model), weights)
    trainer.step(*batch(2, 64))
    with tracing:
        trainer.step(*batch(2, 64))
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
