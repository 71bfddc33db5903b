"""A network's parameters and multiply-adds module by module."""

from collections.abc import Iterator

import torch
from torch import nn

from hmc_fast.profiling.counts import COUNTED_BACKEND, Architecture, dispatched_macs
from hmc_fast.profiling.tables import aligned

DEPTH = 2  # of the names: layer1.0 and ha1.query, not layer1.0.conv1
PRODUCTS = "(products)"  # of an attention block itself, beside its convolutions


def module_table(architecture: Architecture) -> list[str]:
    """Lines: module, parameters, GMAC of one image, share of all; modules without either are left
    out."""
    with torch.device("meta"):
        network = architecture.network(COUNTED_BACKEND)
        macs = dispatched_macs(network, architecture.image())
    rows = [
        [
            "  " * name.count(".") + name,
            f"{parameters:,}",
            f"{count / 1e9:.4f}" if count else "-",
            f"{100 * count / macs['']:.1f} %" if count else "-",
        ]
        for name, parameters, count in _modules(network, macs)
    ]
    total = sum(p.numel() for p in network.parameters())
    rows.append(["all", f"{total:,}", f"{macs[''] / 1e9:.4f}", "100.0 %"])
    return aligned(["module", "parameters", "GMAC", "share"], rows)


def _modules(network: nn.Module, macs: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """Name, parameters and MACs in the order of the network, and after a module's children what it
    does itself."""
    for name, module in network.named_modules():
        parameters = sum(p.numel() for p in module.parameters())
        count = macs.get(name, 0)
        if not name or name.count(".") >= DEPTH or not (parameters or count):
            continue
        yield name, parameters, count
        own = count - sum(macs.get(f"{name}.{child}", 0) for child, _ in module.named_children())
        if own and list(module.children()):
            yield f"{name}.{PRODUCTS}", 0, own
