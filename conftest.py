"""Rules of every pytest run: `--benchmark` runs bench/ alone, GPU tests skip without a GPU."""

from pathlib import Path

import pytest

PAIRS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run the timings of bench/ and nothing else"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[PAIRS] = []
    if not config.getoption("--benchmark"):
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "--benchmark needs pytest-benchmark; install it with: pip install -e '.[test]'"
        )
    if config.args_source is not config.ArgsSource.ARGS:
        config.args = [str(config.rootpath / "bench")]
        config.args_source = config.ArgsSource.ARGS


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Timings and tests never run together, whatever paths are given."""
    in_bench = (config.rootpath / "bench") in (collection_path, *collection_path.parents)
    if config.getoption("--benchmark"):
        return True if collection_path.is_file() and not in_bench else None
    return True if in_bench else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _cuda():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Keep what bench/common.py measured as a pair, for the summary."""
    benchmark = getattr(item, "funcargs", {}).get("benchmark")
    pair = getattr(benchmark, "extra_info", {}).get("pair")
    if pair:
        item.config.stash[PAIRS].append(f"{item.name}: {pair}")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    pairs = config.stash.get(PAIRS, [])
    if pairs:
        terminalreporter.section("pairs, timed in turn (median, 20 to 80 % quantile)")
        for line in pairs:
            terminalreporter.line(line)
