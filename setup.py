"""The packages; everything else stands in pyproject.toml.

kernels/ stands at the top of the repository and is imported as hmc_fast.kernels. The mapping puts
its files into wheels and source archives; the link hmc_fast/kernels -> ../kernels shows them to a
checkout and to an editable install. It takes both: with the mapping alone a checkout may import the
kernels of another one.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["hmc_fast", "hmc_fast.*"]), "hmc_fast.kernels"],
    package_dir={"hmc_fast.kernels": "kernels"},
)
