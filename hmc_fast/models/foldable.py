"""What can be folded exactly; everything else is refused, with the reason."""

from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from hmc_fast.models.network import HMCNet
from hmc_fast.models.spatial_attention import SpatialAttention2d

NETWORKS = (HMCNet, ResNet)
LAYERS = (
    Bottleneck,
    SpatialAttention2d,
    nn.Sequential,
    nn.Conv2d,
    nn.BatchNorm2d,
    nn.ReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Linear,
)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_foldable(model: nn.Module) -> ResNet:
    """`model` itself, where it is an HMC-Net or a ResNet of bottleneck blocks, ready for inference.

    Raises ValueError: another network, a layer of another class, training mode, hooks, parameters
    of several dtypes or devices.
    """
    if type(model) not in NETWORKS:
        raise ValueError(
            "only HMC-Net and torchvision's ResNet50 can be optimised (variants hmc, hierarchical, "
            f"multiscale, resnet50), not {type(model).__name__}"
        )
    for name, module in model.named_modules():
        problem = _problem(module, is_network=not name)
        if problem:
            raise ValueError(f"cannot fold {name or 'the network'}: {problem}")
    if not isinstance(model.fc, nn.Linear):
        raise ValueError(
            f"cannot fold fc: a {type(model.fc).__name__} stands there, not one linear layer"
        )
    kinds = sorted({f"{p.dtype} on {p.device}".removeprefix("torch.") for p in model.parameters()})
    if len(kinds) > 1:
        raise ValueError(f"cannot fold parameters of several dtypes or devices: {', '.join(kinds)}")
    assert isinstance(model, ResNet)
    return model


def _problem(module: nn.Module, is_network: bool) -> str | None:
    """Why a layer cannot be folded, or None."""
    if not is_network and type(module) not in LAYERS:
        return f"a {type(module).__name__} stands there, which is no part of the network"
    if module.training:
        return "it is in training mode; call model.eval() first"
    if any(getattr(module, kind) for kind in HOOKS):
        return "it has hooks, which would never be called; remove them first"
    if "forward" in vars(module):
        return "its forward has been replaced"
    return _unusual_setting(module)


def _unusual_setting(module: nn.Module) -> str | None:
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is None:
        return "it keeps no running statistics"
    if isinstance(module, nn.Conv2d) and (
        module.padding_mode != "zeros" or isinstance(module.padding, str)
    ):
        return f"its padding is {module.padding_mode!r}, {module.padding!r}, not a number of zeros"
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
        return f"it pools to {module.output_size}, not to one value"
    return None
