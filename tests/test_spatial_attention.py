"""The module: shapes, context maps, memory layout, and blocks of other projects' checkpoints."""

import pytest
import torch
from torch import nn

from hmc_fast.models.spatial_attention import SpatialAttention2d


class DanetPam(nn.Module):
    """Position attention as DANet and SAGAN write it (names, no scale), in plain torch."""

    def __init__(self, channels):
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.randn(1))

    def forward(self, x):
        batch, channels, height, width = x.shape
        q = self.query_conv(x).view(batch, -1, height * width).permute(0, 2, 1)
        k = self.key_conv(x).view(batch, -1, height * width)
        attention = torch.softmax(torch.bmm(q, k), dim=-1)
        v = self.value_conv(x).view(batch, -1, height * width)
        out = torch.bmm(v, attention.permute(0, 2, 1)).view(batch, channels, height, width)
        return self.gamma * out + x


def test_a_danet_block_loads_and_gives_the_same_map():
    torch.manual_seed(0)
    theirs, ours = DanetPam(16).double(), SpatialAttention2d(16, scale=1.0).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_a_danet_block_loads_inside_a_network_too():
    theirs, ours = nn.Sequential(DanetPam(8)), nn.Sequential(SpatialAttention2d(8))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours[0].value.weight, theirs[0].value_conv.weight)


def test_starts_as_the_identity():
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(SpatialAttention2d(8)(x), x)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_both_layouts_give_the_same_and_channels_last_out(memory_format):
    torch.manual_seed(0)
    block = SpatialAttention2d(8)
    block.gamma.data.fill_(0.5)
    x = torch.randn(2, 8, 3, 5)
    out = block(x.to(memory_format=memory_format))
    torch.testing.assert_close(out, block(x))
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_context_of_another_size_supplies_keys_and_values():
    torch.manual_seed(0)
    block = SpatialAttention2d(8)
    block.gamma.data.fill_(1.0)
    x, constant = torch.randn(1, 8, 4, 4), torch.ones(1, 8, 2, 3)
    value = block.value(constant)[..., :1, :1]  # all values are equal: attention returns that value
    torch.testing.assert_close(block(x, constant), x + value)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="multiple of reduction, got 12 and 8"):
        SpatialAttention2d(12)
    with pytest.raises(ValueError, match="backend must be one of"):
        SpatialAttention2d(8, backend="fast")
