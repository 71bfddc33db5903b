"""Calls of one batch size as replays of CUDA graphs, one for each size of image.

A graph reads and writes fixed memory: a call copies its images in and its logits out. Calls must
follow each other, on one stream or in a defined order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

SIZES_KEPT = 4
WARM_UP_CALLS = 3  # libraries choose algorithms and take workspaces before the recording


class Recording(NamedTuple):
    """Where images (B, C, H, W) are to lie, what then computes, and where the logits are."""

    images: Tensor
    replay: Callable[[], None]
    logits: Tensor


Forward = Callable[[Tensor], Tensor]
Recorder = Callable[[Forward, Tensor], Recording]


def record(forward: Forward, images: Tensor) -> Recording:
    """A CUDA graph of `forward` at these images' shape, dtype and memory format."""
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(images.device):
        static = images.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                forward(static)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = forward(static)
    return Recording(static, graph.replay, logits)


class GraphedCalls:
    """Recordings of calls with `batch_size` images, made when a size of image is first seen.

    Copies and files take none of them along. recorder: `record`, or a stand-in where there is no
    GPU.
    """

    def __init__(self, batch_size: int, recorder: Recorder = record) -> None:
        self.batch_size, self.recorder = batch_size, recorder
        self._recordings: dict[tuple[int, ...], Recording] = {}

    def takes(self, images: Tensor) -> bool:
        """Whether a call with these images is one of a graph."""
        return len(images) == self.batch_size

    def __call__(self, forward: Forward, images: Tensor) -> Tensor:
        """forward(images), in fresh memory."""
        shape = tuple(images.shape)
        if shape not in self._recordings:
            kept = list(self._recordings.items())[1 - SIZES_KEPT :]
            self._recordings = dict([*kept, (shape, self.recorder(forward, images))])
        recording = self._recordings[shape]
        recording.images.copy_(images)
        recording.replay()
        return recording.logits.clone()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_recordings": {}}
