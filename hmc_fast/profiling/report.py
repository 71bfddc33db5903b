"""What `hmc-fast profile` prints, from what was counted and measured."""

from collections.abc import Mapping, Sequence

from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.profiling.counts import Counts
from hmc_fast.profiling.fold_times import FoldTimes, fold_table
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.memory import MEASURES
from hmc_fast.profiling.modules import module_table
from hmc_fast.profiling.paper import size_sentence, table_two
from hmc_fast.profiling.settings import Settings
from hmc_fast.profiling.sides import EAGER, Name
from hmc_fast.profiling.tables import aligned, number, spread
from hmc_fast.profiling.timing import quantiles
from hmc_fast.profiling.training_time import FoldTraining, training_sentence
from hmc_fast.training.opened_run import RunImages


def counts_table(counts: Mapping[str, Counts]) -> list[str]:
    """Parameters and arithmetic of one image, textbook form, and what is executed optimised."""
    header = ["", "parameters", "GMAC", "GFLOP", "executed GMAC", "counted alike by"]
    rows = [
        [
            name,
            f"{found.parameters:,}",
            f"{found.gmac:.4f}",
            f"{found.gflop:.2f}",
            "-" if found.executed is None else f"{found.executed / 1e9:.4f}",
            _agreement(found),
        ]
        for name, found in counts.items()
    ]
    return aligned(header, rows)


def _agreement(found: Counts) -> str:
    ways = {"closed form": found.closed_form, "flop_counter": found.flop_counter}
    ways |= {"fvcore": found.fvcore} if found.fvcore is not None else {}
    if found.agree:
        return ", ".join(ways)
    return "NOT ALIKE: " + ", ".join(f"{way} {macs:,}" for way, macs in ways.items())


def latency_table(latencies: Sequence[Latency]) -> list[str]:
    """ms an image and peak memory of every side, a pair of columns a batch size."""
    batches = list(dict.fromkeys(found.batch for found in latencies))
    by_side: dict[Name, dict[int, Latency]] = {}
    for found in latencies:
        by_side.setdefault(found.name, {})[found.batch] = found
    header = ["", "side", "dtype"]
    for batch in batches:
        header += [f"ms an image, batch {batch}", "peak MiB"]
    rows = []
    for name, found_at in by_side.items():
        cells = [name.network, name.provider, dtype_name(name.dtype)]
        for batch in batches:
            cells += _cells(found_at.get(batch))
        differences = [found.difference for found in found_at.values()]
        rows.append([*cells, "-" if name.provider == EAGER else f"{max(differences):.1e}"])
    return aligned([*header, "max |Δp|"], rows)


def _cells(found: Latency | None) -> list[str]:
    return ["-", "-"] if found is None else [spread(found.ms_an_image()), number(found.peak)]


def medians_at_one(latencies: Sequence[Latency]) -> dict[str, dict[str, float]]:
    """Median ms of one image by side and network, for Table 2."""
    found: dict[str, dict[str, float]] = {}
    for latency in latencies:
        if latency.batch == 1:
            side = f"{latency.name.provider} {dtype_name(latency.name.dtype)}"
            found.setdefault(side, {})[latency.name.network] = quantiles(latency.ms)["q50"]
    return found


def print_counts(counts: Mapping[str, Counts], settings: Settings, *, modules: bool) -> None:
    """Of every network, and where asked for of its modules."""
    title = f"one image of {settings.image_size} px; 1 MAC = 2 FLOP; executed: optimised, grey"
    print_section(title, counts_table(counts))
    for variant in counts if modules else ():
        print_section(f"{variant} by module", module_table(settings.architecture(variant)))


def print_latencies(latencies: Sequence[Latency], settings: Settings) -> None:
    """Of every side, and how memory was measured."""
    measure = MEASURES[settings.device.type]
    title = f"median (20 to 80 % quantiles) of {len(latencies[0].ms)} rounds; peak MiB: {measure}"
    print_section(title, latency_table(latencies))


def print_table_two(counts: Mapping[str, Counts], latencies: Sequence[Latency]) -> None:
    """The paper's columns beside ours."""
    title = "the paper's Table 2 beside ours, batch 1 (its ms are of its own machine)"
    print_section(title, [*table_two(counts, medians_at_one(latencies)), size_sentence()])


def print_run(
    images: RunImages, folds: Sequence[FoldTimes], training: Sequence[FoldTraining]
) -> None:
    """The times of a run's test folds, where they were measured, and its hours of training."""
    folder = images.run.folder
    if folds:
        title = f"test folds of {folder}, one image at a time: median ms an image"
        print_section(title, fold_table(folds))
        if images.dataset.name == "phantom":
            print("loading the phantom is drawing it: no file is read")
    print(training_sentence(folder, training))


def print_section(title: str, lines: Sequence[str]) -> None:
    """An empty line, the title, the lines."""
    print("", title, *lines, sep="\n", flush=True)
