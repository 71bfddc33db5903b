"""`hmc-fast train`: flags from the configuration's fields, a configuration file first, flags on
top."""

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmc_fast.errors import InputError
from hmc_fast.training.config import PRESETS, TrainConfig, config_from_dict, flag
from hmc_fast.training.run_folder import CONFIG, read_config, run_folder

DESCRIPTION = (
    "Train HMC-Net or a baseline under patient-level cross-validation "
    "and report on the folds left out."
)


def add_parser(subparsers: Any) -> None:
    """Add `train` to the subcommands."""
    parser = subparsers.add_parser(
        "train", help="train under cross-validation", description=DESCRIPTION
    )
    add_flags(parser)
    parser.set_defaults(run=run)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    add_setting_flags(parser, TrainConfig)
    parser.add_argument("--config", type=Path, help="JSON of an earlier run; flags go on top")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in --out, same settings"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def add_setting_flags(
    parser: argparse.ArgumentParser, settings: type, leave_out: Sequence[str] = ()
) -> None:
    """A flag for each field of a dataclass of settings; one that is not given leaves no trace, so
    that a file's value stays."""
    for field in dataclasses.fields(settings):
        if field.name in leave_out:
            continue
        options: dict[str, Any] = {"dest": field.name, "default": argparse.SUPPRESS}
        if field.type is bool:
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"type": _value_type(field.type), "metavar": field.name.upper()}
            if field.metadata["choices"]:
                options |= {"choices": field.metadata["choices"], "metavar": None}
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(
            flag(field.name), help=field.metadata["help"].replace("%", "%%") + default, **options
        )


def _value_type(annotation: Any) -> type:
    """int of `int | None`."""
    if isinstance(annotation, types.UnionType):
        annotation = next(t for t in typing.get_args(annotation) if t is not types.NoneType)
    return annotation


def run(args: argparse.Namespace) -> int:
    """Train; returns 0."""
    from hmc_fast.training.loop import train

    given = given_settings(args, TrainConfig)
    values = _values_of_the_run(given) if args.resume else {}
    if args.config:
        from_file = read_config(args.config)
        from_file.pop("out", None)  # the earlier run's own folder
        values = laid_over(values, from_file)
    config = config_from_dict(laid_over(values, given))
    train(config, resume=args.resume, quiet=args.quiet, command=args.command_line)
    return 0


def given_settings(args: argparse.Namespace, settings: type) -> dict[str, Any]:
    """The values of a dataclass's fields that were given as flags."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def _values_of_the_run(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run that is to go on; none where it was killed before it wrote them."""
    if "out" not in given:
        raise InputError("--resume needs --out with the folder of the run to go on with")
    path = run_folder(given["out"]) / CONFIG
    return read_config(path) if path.is_file() else {}


def laid_over(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given` on top of `values`, without what it makes void: a preset decides its own settings
    anew, and of --epochs and --augmented only the later holds."""
    void: set[str] = set()
    if given.get("preset") is not None:
        void = {key for preset in PRESETS.values() for key in preset}
    if given.get("epochs") is not None or given.get("augmented") is not None:
        void |= {"epochs", "augmented"}
    return {key: value for key, value in values.items() if key not in void} | given
