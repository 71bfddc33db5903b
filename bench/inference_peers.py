"""Other ways to run the network on a CPU, where they are installed: onnxruntime and OpenVINO.

Both get the plain network with textbook attention, float32, and as many threads as torch has.
    pip install -e ".[export,peers]"
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hmc_fast.models.exported import onnx_call, onnx_file, traced

Call = Callable[[Tensor], Tensor]


def onnxruntime_call(model: nn.Module, images: Tensor) -> Call:
    """A session of what `hmc-fast export --plain` writes. Raises ImportError."""
    return onnx_call(onnx_file(traced(model, images.shape[-1]), metadata=""))


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
