"""A synthetic mammogram set for trying things out, made on demand: no file, no download.

Every film is a pure function of the seed and its place in the set (phantom_film.py draws it), so it
can be made alone, in any order and in any process.
"""

from functools import partial

import numpy as np

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.phantom_film import CLASSES, VERSION, draw_film, random_generator
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_bytes

Film = tuple[int, int, int, int, int]  # the arguments of draw_film
UNILATERAL_PERIOD = 6
MIN_SIZE = 64


def open_phantom(patients: int = 100, *, seed: int = 0, size: int = 256) -> Dataset:
    """The seeded phantom: films "p001L", "p001R", ... of the classes normal, benign, malignant.

    patients: at least 1; seed: of everything random, at least 0; size: side of the square films in
    pixels, at least 64. A film does not depend on how many patients there are.

    Returns a Dataset whose read, mask and content make film i alone, in any order.

    Raises InputError: when an argument is below its least value.
    """
    limits = (("patients", patients, 1), ("seed", seed, 0), ("size", size, MIN_SIZE))
    for name, value, least in limits:
        if value < least:
            raise InputError(f"the phantom's {name} is {value}; give at least {least}.")
    numbers = range(1, patients + 1)
    labels = np.array([film_labels(seed, patient) for patient in numbers], dtype=np.int64)
    films = [(seed, i // 2 + 1, i % 2, size, int(k)) for i, k in enumerate(labels.ravel())]
    names = [f"p{patient:0{max(3, len(str(patients)))}d}" for _, patient, *_ in films]
    return Dataset(
        name="phantom",
        classes=CLASSES,
        images=tuple(name + "LR"[i % 2] for i, name in enumerate(names)),
        patients=tuple(names),
        labels=labels.ravel(),
        strata=labels.max(axis=1).repeat(2),
        read=partial(_part_of_film, films, 0),
        mask=partial(_part_of_film, films, 1),
        content=partial(_content, films),
    )


def film_labels(seed: int, patient: int) -> tuple[int, int]:
    """The classes of a patient's left and right film.

    Of every three patients in a row one is normal, one benign and one malignant, in random order;
    in every UNILATERAL_PERIOD-th patient of the latter two one film is normal all the same.
    """
    trio, place = divmod(patient - 1, 3)
    worst = int(random_generator(seed, trio, "plan").permutation(3)[place])
    films = [worst, worst]
    if worst and (trio + 3 * worst) % UNILATERAL_PERIOD == 0:
        films[int(random_generator(seed, patient, "healthy side").integers(2))] = 0
    return films[0], films[1]


def _part_of_film(films: list[Film], part: int, i: int) -> np.ndarray:
    return draw_film(*films[i])[part]


def _content(films: list[Film], i: int) -> str:
    return sha256_bytes(f"phantom version {VERSION}: {films[i]}".encode())
