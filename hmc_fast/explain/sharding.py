"""Score-CAM's masks divided among the processes of torch.distributed.

Every process has the same model and images, tries every n-th mask, and gets all scores. The maps
that masks are made of are the first process's: roundings of another one could give others.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from hmc_fast.explain.approximate import Scores

DIFFERENT = 1e-3  # relative, of the sum of all maps: more than roundings


def is_shared() -> bool:
    """Whether there are other processes to share with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def agree_on(maps: Tensor, targets: Tensor) -> None:
    """Give all processes the first one's maps and targets.

    Raises ValueError where their own are others: their scores would be mixed.
    """
    if not is_shared():
        return
    own = torch.stack([maps.new_tensor(maps.numel()), maps.sum()]).double()
    low, high = own.clone(), own.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.allclose(low, high, rtol=DIFFERENT):
        raise ValueError(
            "with torch.distributed all processes must call score_cam with the same model and "
            "images: the masks are divided among them"
        )
    for tensor in (maps, targets):
        first = tensor.contiguous()  # channels last cannot be sent
        dist.broadcast(first, 0)
        tensor.copy_(first)


def own_share(places: Tensor) -> Tensor:
    """Those of `places` that this process tries."""
    return places[dist.get_rank() :: dist.get_world_size()] if is_shared() else places


def gather(scores: Scores) -> None:
    """Make the scores of all processes everybody's."""
    if is_shared():
        tried = scores.tried.to(scores.values.dtype)
        dist.all_reduce(scores.values)
        dist.all_reduce(tried)
        scores.tried.copy_(tried > 0)
