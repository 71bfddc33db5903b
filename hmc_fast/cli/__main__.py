"""`python -m hmc_fast.cli` is `hmc-fast`."""

import sys

from hmc_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
