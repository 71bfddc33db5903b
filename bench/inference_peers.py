"""Other ways to run the network on a CPU, where they are installed: onnxruntime and OpenVINO.

Both get the plain network with textbook attention, float32, and as many threads as torch has.
    pip install onnx onnxruntime onnxscript openvino
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Call = Callable[[Tensor], Tensor]


def onnxruntime_call(model: nn.Module, images: Tensor) -> Call:
    """A session made from an ONNX file. Raises ImportError where a package is missing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        program = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
        program.save(path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


def openvino_call(model: nn.Module, images: Tensor) -> Call:
    """A compiled model. Raises ImportError where the package is missing."""
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    traced = openvino.convert_model(model, example_input=images)
    compiled = openvino.compile_model(traced, "CPU", settings)
    return lambda given: torch.from_numpy(compiled(given.numpy())[0].copy())


PEERS = {"onnxruntime": onnxruntime_call, "openvino": openvino_call}


def installed_peers(model: nn.Module, images: Tensor) -> dict[str, Call]:
    """Those that are there; a line for each that is not."""
    calls = {}
    for name, make in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporters
                calls[name] = make(model, images)
        except ImportError as error:
            print(f"without {name}: {error}")
    return calls
