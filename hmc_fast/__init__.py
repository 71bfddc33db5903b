"""HMC-Net for mammograms: a fast spatial attention, patient-level training, honest numbers.

For research; not a medical device.
"""

from hmc_fast._checks import check_installation

__version__ = "0.1.0"

check_installation()
