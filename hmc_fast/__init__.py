"""HMC-Net for mammograms: a fast spatial attention, patient-level training, honest numbers.

For research; not a medical device.
"""

from hmc_fast._checks import check_installation

__version__ = "0.1.0"

check_installation()

from hmc_fast.attention import spatial_attention  # noqa: E402
from hmc_fast.models import create_model, load_model  # noqa: E402
from hmc_fast.models.optimized import optimize_for_inference  # noqa: E402
from hmc_fast.models.spatial_attention import SpatialAttention2d  # noqa: E402

__all__ = [
    "SpatialAttention2d",
    "__version__",
    "create_model",
    "load_model",
    "optimize_for_inference",
    "spatial_attention",
]
