"""Score-CAM in several processes: each tries its share, all get the map."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cam_examples import LAYER, random_images, tiny_cam
from hmc_fast.explain import score_cam, score_cam_details, sharding

TESTS = Path(__file__).resolve().parent
WORKER = """
import sys
import torch, torch.distributed as dist
from cam_examples import LAYER, random_images, tiny_cam
from hmc_fast.explain import score_cam, score_cam_details
rank, path = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
model, images, counts = tiny_cam(), random_images(), []
hook = model.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
details = score_cam_details(model, images, [1, 3], layer=LAYER)
print(sum(counts), details.layers[0].tried, details.maps.double().sum().item())
for call in (lambda: score_cam(model, images + rank, 1, layer=LAYER),
             lambda: score_cam(model, images, 1, layer=LAYER, tolerance=0.1)):
    try:
        call()
    except ValueError as error:
        print(error)
"""


class Group:
    """Stands for torch.distributed in one of `size` processes: nothing is exchanged."""

    class ReduceOp:
        MIN = MAX = None

    def __init__(self, rank, size):
        self.get_rank, self.get_world_size = lambda: rank, lambda: size
        self.is_available = self.is_initialized = lambda: True
        self.all_reduce = self.broadcast = lambda tensor, other=None: None


def test_every_mask_is_one_processs_share(monkeypatch):
    model, images = tiny_cam(), random_images()
    (layer,) = score_cam_details(model, images, 1, layer=LAYER).layers
    places, shares = torch.arange(7), []
    tried = torch.zeros(2)
    for rank in range(3):
        monkeypatch.setattr(sharding, "dist", Group(rank, 3))
        shares += sharding.own_share(places).tolist()
        tried += torch.tensor(score_cam_details(model, images, 1, layer=LAYER).layers[0].tried)
    assert sorted(shares) == places.tolist()
    assert tried.tolist() == layer.distinct


@pytest.mark.slow
def test_two_processes_give_the_map_of_one(tmp_path):
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting")], cwd=TESTS, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    expected = score_cam(tiny_cam(), random_images(), [1, 3], layer=LAYER).double().sum()
    for printed, _ in outputs:
        figures, *sentences = printed.splitlines()
        count, tried, total = (
            figures.split(" ", 1)[0],
            figures[3:].rsplit(" ", 1)[0],
            figures.split()[-1],
        )
        assert int(count) in (11, 12, 13)  # 2 for the maps, half of 20 masks or fewer
        assert float(total) == pytest.approx(expected.item(), rel=1e-5)
        assert tried.startswith("[")
        assert "all processes must call score_cam with the same model and images" in sentences[0]
        assert "tolerance works in one process" in sentences[1]
