"""The images that a run's settings name."""

from hmc_fast.data import Dataset, open_dataset
from hmc_fast.errors import InputError
from hmc_fast.training.config import TrainConfig


def configured_data(config: TrainConfig, spec: str | None = None) -> Dataset:
    """The data set of these settings, or with them the one that `spec` names; nothing is decoded.

    Raises InputError: the data cannot be used as asked.
    """
    return open_dataset(
        config.data if spec is None else spec,
        classes=config.class_names,
        label=config.label,
        seed=config.seed,
        image_size=config.pixels,
    )


def data_again(config: TrainConfig, spec: str | None) -> Dataset:
    """`configured_data` of a run from earlier, whose images may have been moved."""
    try:
        return configured_data(config, spec)
    except InputError as error:
        if spec is not None:
            raise
        raise InputError(f"{error}; give --data, where the run's data are now") from error
