"""Every tile of kernels/configurations.json gives the truth, whatever GPU it is for."""

import pytest

from kernel_cases import QUIET, check_tile, table_tiles

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(QUIET)]


@pytest.mark.parametrize(("kernel", "tile", "widths", "dtype"), table_tiles())
def test_every_tile_of_the_table_gives_the_truth(kernel, tile, widths, dtype):
    check_tile(kernel, tile, widths, dtype)
