"""Networks that are explained in a moment, and maps brought to 0 to 1 as the tests do it."""

import torch
from torch import nn

SIZE = (12, 16)  # of images: not square
LAYER = "body.4"  # 10 channels of 3 x 4, after the ReLU


class TinyCam(nn.Module):
    """Three convolutions with a ReLU that works in place, BatchNorm, and a tail that is linear or
    not."""

    def __init__(self, channels=3, classes=4, linear=True, width=10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
            nn.Conv2d(6, width, 3, stride=2, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.tail = (
            nn.Identity() if linear else nn.Sequential(nn.Conv2d(width, width, 1), nn.Tanh())
        )
        self.fc = nn.Linear(width, classes)

    def forward(self, images):
        """(B, channels, H, W) -> (B, classes)."""
        return self.fc(self.tail(self.body(images)).mean((2, 3)))


def tiny_cam(dtype=torch.float32, **settings):
    """Seeded, in eval mode, with statistics that are not 0 and 1."""
    torch.manual_seed(0)
    model = TinyCam(**settings)
    model.body[1].running_mean.uniform_(-0.2, 0.2)
    model.body[1].running_var.uniform_(0.5, 2)
    model.fc.bias.data.add_(1)  # logits that are positive, or the paper's Score-CAM shows nothing
    return model.to(dtype).eval()


def random_images(count=2, channels=3, dtype=torch.float32, size=SIZE):
    """Seeded noise."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *size, generator=generator).to(dtype)


def unit(maps):
    """Each map of (B, h, w) from 0 to 1."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def state_of(model):
    """What an explanation must leave alone: flags, parameters' settings, hooks, weights."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return (
        {name: module.training for name, module in model.named_modules()},
        {name: (p.requires_grad, p.grad, p._version) for name, p in model.named_parameters()},
        {name: [dict(getattr(m, kind)) for kind in hooks] for name, m in model.named_modules()},
        {name: value.sum().item() for name, value in model.state_dict().items()},
    )
