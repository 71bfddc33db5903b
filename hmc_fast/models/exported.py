"""A trained network as a program that runs without hmc_fast: an ONNX file, or torch.export's.

    images (batch, channels, S, S) float32 -> logits (batch, classes); any batch, S as exported

Both are written from one traced graph with textbook attention, as every runtime has its operators.
Beside the weights stands METADATA, a JSON text with all that a user of the file needs to know.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from hmc_fast.models.folded import fold
from hmc_fast.models.folding import Identities
from hmc_fast.models.network import STRIDES, HMCNet

Call = Callable[[Tensor], Tensor]
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}  # of each format
METADATA = "hmc_fast.json"  # a key of ONNX's metadata_props, an extra file of torch.export's
INPUT, OUTPUT = "images", "logits"
OPSET = 20
BATCHES = (1, 5)  # that a program is compared at
# HA1's map in four phases (identity 9) would be written slice by slice: in ONNX with computed
# indices, which not every runtime takes, and onnxruntime is no faster with them.
FOLDED = Identities(skip_map=False)


def folded_for_export(model: nn.Module, grayscale: bool = False) -> nn.Module:
    """The form of `model` that is exported by default; grayscale: for images of one channel.

    Raises ValueError where the network cannot be folded exactly (foldable.py).
    """
    return fold(model, FOLDED, grayscale=grayscale)


@torch.no_grad()
def traced(network: nn.Module, image_size: int, channels: int = 3) -> ExportedProgram:
    """The graph of a network in eval mode, on the CPU, for images (B, channels, S, S) of any B.

    Raises ValueError where an attention block has another backend than "reference".
    """
    others = {getattr(m, "backend", "reference") for m in network.modules()} - {"reference"}
    if others:
        raise ValueError(f'an export takes backend="reference", got {", ".join(sorted(others))}')
    example = torch.zeros(2, channels, image_size, image_size)
    sizes = ({0: Dim("batch")},)
    with _warnings_ignored():
        program = torch.export.export(network, (example,), dynamic_shapes=sizes, strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine are nobody's business
    return program


def onnx_file(program: ExportedProgram, metadata: str) -> bytes:
    """The bytes of an ONNX file with weights and METADATA, operators of the standard domain alone.

    Raises ImportError without onnx and onnxscript.
    """
    with _warnings_ignored():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: "batch"},),
        )
    assert exported is not None
    exported.model.metadata_props[METADATA] = metadata
    return exported.model_proto.SerializeToString()


def torch_export_file(program: ExportedProgram, metadata: str) -> bytes:
    """The bytes of a .pt2 archive with weights, and METADATA among its extra files."""
    buffer = io.BytesIO()
    with _warnings_ignored():
        torch.export.save(program, buffer, extra_files={METADATA: metadata})
    return buffer.getvalue()


def onnx_call(data: bytes) -> Call:
    """An ONNX file as a function of images, by onnxruntime; ImportError without it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def torch_export_call(data: bytes) -> Call:
    """A .pt2 archive as a function of images."""
    with _warnings_ignored():
        return torch.export.load(io.BytesIO(data)).module()


WRITERS = {"onnx": onnx_file, "torch-export": torch_export_file}
CALLS = {"onnx": onnx_call, "torch-export": torch_export_call}


@torch.no_grad()
def largest_difference(call: Call, images: Tensor, expected: Tensor) -> float:
    """The largest |Δp| over BATCHES, NaN where a probability is; `call` gives logits.

    images: as many as the largest of BATCHES, (B, channels, S, S); expected: their probabilities,
    (B, classes).
    """
    parts = [(call(images[:n]).softmax(1) - expected[:n]).abs().max() for n in BATCHES]
    return float(torch.stack(parts).max())


def score_bytes(model: nn.Module, image_size: int, batch: int) -> int:
    """Memory that the scores of the widest attention block and their softmax take in float32."""
    blocks = model.attention_blocks() if isinstance(model, HMCNet) else {}
    tokens = [(image_size // STRIDES[name]) ** 2 for name in blocks]
    return max((2 * 4 * batch * count**2 for count in tokens), default=0)


@contextmanager
def _warnings_ignored() -> Iterator[None]:
    """The exporters warn of their own plans; what fails raises, and results are compared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
