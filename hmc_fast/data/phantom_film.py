"""Draws the phantom's films: a pure function of (seed, patient, side, size, label).

Everything is drawn in normalised coordinates, x from the chest wall towards the nipple and y
downwards, both 0..1 over the square image, so `size` changes the resolution and nothing else. Gland
tissue stands where an envelope behind the nipple, the patient's density and noise of power 1/f^3
add up to enough; strands are noise drawn out towards the nipple. The two films of a patient share
outline, density and the coarse pattern. A benign lesion is a smooth oval, a malignant one a larger,
denser, irregular core with radiating spicules and a haze. A teaching aid, not a model of anatomy.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy.ndimage import map_coordinates

Array = np.ndarray
VERSION = 2  # stands in every film's content hash: raise it when any pixel changes
CLASSES = ("normal", "benign", "malignant")
TEXTURE = 256  # the noise's own resolution, whatever the film's


@dataclass(frozen=True)
class Breast:
    """What the two films of a patient share; lengths are fractions of the image's side."""

    width: float
    centre: float
    up: float
    down: float
    droop: float
    axilla: float
    muscle_top: float
    muscle_length: float
    density: float
    fat: float

    @property
    def nipple(self) -> tuple[float, float]:
        return self.width, self.centre + self.droop * self.width**2


@dataclass(frozen=True)
class Lesion:
    """A mass; `radius`, a fraction of the image's side, is the unit of every length below it."""

    x: float
    y: float
    radius: float
    contrast: float
    haze: float
    waves: Array  # (orders, 2): amplitude and phase of the border's waves, from the second order up
    spicules: Array  # (count, 4): angle, length, width, bend


def draw_film(seed: int, patient: int, side: int, size: int, label: int) -> tuple[Array, Array]:
    """One film, uint8 (size, size), and its lesion mask, bool (size, size).

    side 0 is a left film, chest wall at column 0; side 1 a right one, mirrored.
    """
    breast = _draw_breast(random_generator(seed, patient, "breast"))
    own = random_generator(seed, patient, f"film {side}")
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = centres[None, :], centres[:, None]
    depth = _depth(breast, x, y)
    film = _tissue(breast, x, y, depth, random_generator(seed, patient, "pattern"), own)
    mask = np.zeros((size, size), dtype=bool)
    if label:
        lesion = _draw_lesion(breast, label, random_generator(seed, patient, f"lesion {side}"))
        _add_lesion(film, mask, lesion, x, y)
    film = _expose(_under_muscle(breast, film, x, y), depth)
    film += np.float32(0.008) * own.standard_normal(film.shape, dtype=np.float32)
    image = np.where(depth > 0, 255 * np.clip(film, 0, 1), 0).round().astype(np.uint8)
    mirror = slice(None, None, -1 if side else 1)
    return image[:, mirror].copy(), (mask & (depth > 0))[:, mirror].copy()


def random_generator(seed: int, number: int, purpose: str) -> Generator:
    """A stream of its own for each purpose, so that no film waits for another."""
    return np.random.default_rng([seed, number, *purpose.encode()])


def _draw_breast(generator: Generator) -> Breast:
    draw = generator.uniform
    width = draw(0.54, 0.78)
    return Breast(
        width=width,
        centre=draw(0.52, 0.60),
        up=draw(0.42, 0.58),
        down=draw(0.32, 0.40),
        droop=draw(0.00, 0.15),
        axilla=draw(0.50, 0.80) * width,
        muscle_top=draw(0.30, 0.46) * width,
        muscle_length=draw(0.42, 0.70),
        density=draw(-0.8, 0.8),
        fat=draw(0.29, 0.34),
    )


def _smooth_union(a: Array, b: Array, radius: float) -> Array:
    """The larger of two depths, the corner where they meet rounded over about `radius`."""
    gap = np.clip(1 - np.abs(a - b) / radius, 0, None)
    return np.maximum(a, b) + 0.25 * radius * gap * gap


def _depth(breast: Breast, x: Array, y: Array) -> Array:
    """Distance to the skin, positive inside, to first order: half an oval, chest wall, nipple."""
    down = y - breast.droop * x * x - breast.centre
    height = np.where(down < 0, np.float32(breast.up), np.float32(breast.down))
    u, v = x / breast.width, down / height
    radius = np.sqrt(u * u + v * v) + 1e-6
    slope = np.sqrt((u / breast.width) ** 2 + (v / height) ** 2) + 1e-6
    oval = radius * (1 - radius) / slope
    strip = breast.axilla * (1 - 1.5 * y) - x
    nipple_x, nipple_y = breast.nipple
    bump = 0.016 - np.sqrt((x - nipple_x) ** 2 + (y - nipple_y) ** 2)
    return _smooth_union(_smooth_union(oval, strip, 0.20), bump, 0.03)


def _muscle_depth(breast: Breast, x: Array, y: Array) -> Array:
    """Distance to the front edge of the pectoral muscle, positive inside; the edge is convex."""
    along = y / breast.muscle_length
    edge = breast.muscle_top * (1 - along) * (1 + 0.35 * along)
    return (edge - x) / math.hypot(1, breast.muscle_top / breast.muscle_length)


def _power_noise(generator: Generator, beta: float, finest: float) -> Array:
    """Periodic float32 (TEXTURE, TEXTURE) of power 1/f^beta up to f = finest, unit variance."""
    rows, columns = np.fft.fftfreq(TEXTURE, 1 / TEXTURE), np.fft.rfftfreq(TEXTURE, 1 / TEXTURE)
    squared = rows[:, None] ** 2 + columns**2
    amplitude = np.maximum(squared, 4) ** (-beta / 4) * np.exp(-squared / finest**2)
    amplitude[0, 0] = 0
    white = np.fft.rfft2(generator.standard_normal((TEXTURE, TEXTURE), dtype=np.float32))
    noise = np.fft.irfft2(white * amplitude, s=(TEXTURE, TEXTURE)).astype(np.float32)
    return noise / noise.std()


def _sample(noise: Array, x: Array, y: Array) -> Array:
    """Periodic noise at the positions (x, y), one period a unit."""
    places = np.broadcast_arrays(y * TEXTURE - 0.5, x * TEXTURE - 0.5)
    return map_coordinates(noise, places, order=1, mode="grid-wrap", output=np.float32)


def _fan(noise: Array, x: Array, y: Array, focus: tuple[float, float], spread: float) -> Array:
    """Soft bright strands: the noise drawn out towards the focus, its dark half cut off."""
    forward, across = focus[0] - x, y - focus[1]
    along = 0.14 * np.sqrt(forward**2 + across**2) + spread
    return np.clip(_sample(noise, spread * np.arctan2(across, forward), along), 0, 3) ** 1.5


def _tissue(
    breast: Breast, x: Array, y: Array, depth: Array, shared: Generator, own: Generator
) -> Array:
    """Fat, gland and strands at full thickness: float32 (size, size), about 0.25..0.7."""
    nipple_x, nipple_y = breast.nipple
    noise = 0.6 * _power_noise(shared, 3.0, TEXTURE) + 0.8 * _power_noise(own, 3.0, TEXTURE)
    pattern = _sample(noise, x, y)
    fibres = _power_noise(own, 1.2, 50)
    strands = 0.30 * _fan(fibres, x, y, (nipple_x + 0.12, nipple_y), 0.45)
    strands += 0.25 * _fan(fibres, x, y, (nipple_x + 0.9, nipple_y - 0.7), 0.8)
    off_x, off_y = (x / nipple_x - 0.60) / 0.55, (y - nipple_y + 0.04) / 0.28
    level = 1.8 + 1.3 * breast.density - 2.2 * (off_x**2 + off_y**2) + 0.9 * pattern
    gland = np.clip((depth - 0.01) / 0.07, 0, 1) / (1 + np.exp(-np.clip(level, -9, 9)))
    rough = 0.035 * pattern + 0.05 * strands
    return breast.fat + 0.015 * pattern + 0.04 * strands + gland * (0.13 + rough)


def _under_muscle(breast: Breast, film: Array, x: Array, y: Array) -> Array:
    depth = _muscle_depth(breast, x, y)
    share = 1 / (1 + np.exp(-np.clip(depth / 0.008, -30, 30)))
    muscle = 0.50 + 0.30 * np.clip(depth, 0, 0.3) + 0.3 * (film - breast.fat)
    return film + share * np.maximum(muscle - film, 0.02)


def _expose(film: Array, depth: Array) -> Array:
    """The film's curve: dark where the breast thins out, a fine skin line, no hard white."""
    inner = np.clip(depth / 0.11, 0, 1)
    film = film * (0.06 + 0.94 * np.sqrt(inner * (2 - inner)))
    film += 0.07 * np.exp(-(((depth - 0.006) / 0.005) ** 2))
    return np.where(film > 0.7, 0.7 + 0.3 * np.tanh((film - 0.7) / 0.3), film)


def _draw_lesion(breast: Breast, label: int, generator: Generator) -> Lesion:
    draw, malignant = generator.uniform, CLASSES[label] == "malignant"
    radius = draw(0.112, 0.138) if malignant else draw(0.08, 0.097)
    x, y = _place(breast, radius, generator)
    orders = np.arange(2, 9 if malignant else 4)
    waves = draw((0.3, 0), (1, 2 * np.pi), (len(orders), 2))
    waves[:, 0] *= (0.18 if malignant else 0.12) / np.sqrt(orders)
    spicules = draw((0, 1.4, 0.06, -0.2), (2 * np.pi, 2.7, 0.19, 0.2), (26, 4)).astype(np.float32)
    return Lesion(
        x,
        y,
        radius,
        contrast=draw(0.50, 0.58) if malignant else draw(0.40, 0.47),
        haze=0.5 if malignant else 0.0,
        waves=waves.astype(np.float32),
        spicules=spicules[: generator.integers(18, 27) if malignant else 0],
    )


def _place(breast: Breast, radius: float, generator: Generator) -> tuple[float, float]:
    """The first of many random points with enough tissue around it, or the one with the most."""
    x, y = generator.uniform(0.02, 0.75, 200), generator.uniform(0.15, 0.9, 200)
    room = np.minimum(_depth(breast, x, y) - 0.05, -_muscle_depth(breast, x, y))
    best = int(np.argmax(np.minimum(np.minimum(room, x) - 1.15 * radius, 0)))
    return float(x[best]), float(y[best])


def _add_lesion(film: Array, mask: Array, lesion: Lesion, x: Array, y: Array) -> None:
    """Draws the lesion into film and mask, within the window that it can reach."""
    reach = 3 * lesion.radius
    rows, columns = np.abs(y[:, 0] - lesion.y) < reach, np.abs(x[0] - lesion.x) < reach
    dx = (x[:, columns] - lesion.x) / lesion.radius
    dy = (y[rows] - lesion.y) / lesion.radius
    radius, angle = np.sqrt(dx * dx + dy * dy), np.arctan2(dy, dx)
    border = np.ones_like(radius)
    for order, (amplitude, phase) in enumerate(lesion.waves, start=2):
        border += amplitude * np.cos(order * angle + phase)
    core = 1 / (1 + np.exp(np.clip((radius / border - 1) / 0.08, -30, 30)))
    dome = 0.65 + 0.35 * np.sqrt(np.clip(1 - (radius / border) ** 2, 0, 1))
    rays = _rays(lesion.spicules, dx, dy)
    around = 1.1 * rays + lesion.haze * np.exp(-((radius / 1.6) ** 2))
    window = np.ix_(rows, columns)
    film[window] += lesion.contrast * (core * dome + (1 - core) * around)
    mask[window] = (radius < border) | (rays > 0.3)


def _rays(spicules: Array, dx: Array, dy: Array) -> Array:
    """The strongest spicule at each point: bent lines from the centre that thin out and fade."""
    rays = np.zeros(np.broadcast_shapes(dx.shape, dy.shape), dtype=np.float32)
    for angle, length, width, bend in spicules:
        along = dx * np.cos(angle) + dy * np.sin(angle)
        across = dy * np.cos(angle) - dx * np.sin(angle) + bend * along**2
        taper = np.clip(1 - along / length, 0, 1) * (along > 0)
        profile = np.exp(-((across / (width * (0.4 + taper))) ** 2))
        np.maximum(rays, taper * profile, out=rays)
    return rays
