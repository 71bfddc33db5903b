"""`hmc-fast study`: many networks on the same folds, the leak study, and one report of it all."""

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from hmc_fast.cli.train import add_setting_flags, given_settings, laid_over
from hmc_fast.errors import InputError
from hmc_fast.training.config import TrainConfig, config_from_dict
from hmc_fast.training.study_config import OWN, StudyConfig, read_study, study_settings

DESCRIPTION = (
    "Train the paper's networks and the baselines on the same folds, one of them also under "
    "protocols that leak, and write every table and figure with the paper's figures beside, and "
    "report.html. The same command again goes on where it was stopped; under "
    "`torchrun --nproc-per-node N -m hmc_fast.cli study ... --parallel folds` processes share the "
    "folds. Where one of them dies, torchrun stops the others after a checkpoint: only the last "
    "steps of that one's fold are lost. For research; not a medical device."
)
LEAK_BUDGET = {"leak_epochs", "leak_augmented"}
LEFT_OUT = (*OWN, "weights", "validation_fraction")


def add_parser(subparsers: Any) -> None:
    """Add `study` to the subcommands."""
    parser = subparsers.add_parser(
        "study", help="train and compare all networks, with one report", description=DESCRIPTION
    )
    parser.add_argument("--out", type=Path, default=Path("study"), help="folder of the study")
    add_setting_flags(parser, StudyConfig)
    add_setting_flags(parser, TrainConfig, leave_out=LEFT_OUT)
    parser.add_argument(
        "--resume", action="store_true", help="take all settings from the study in --out"
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the study; returns 0, or 1 where some of its runs failed (each is named)."""
    from hmc_fast.study.job import SETTINGS, run_study

    out = args.out.expanduser()
    values: dict[str, Any] = {}
    if args.resume:
        if not (out / SETTINGS).is_file():
            raise InputError(f"--resume: {out} holds no study; leave --resume out to start one")
        values = study_settings(*read_study(out / SETTINGS))
    training = laid_over(values.pop("training", {}), given_settings(args, TrainConfig))
    training = {key: value for key, value in training.items() if key != "out"}
    own = given_settings(args, StudyConfig)
    if own.keys() & LEAK_BUDGET:  # of the two only the later holds
        values = {key: value for key, value in values.items() if key not in LEAK_BUDGET}
    study = StudyConfig(**values | own)
    failed = run_study(
        config_from_dict(training),
        study,
        out,
        command=args.command_line,
        again=_again(args.out),
        quiet=args.quiet,
    )
    for sentence in failed:
        print(f"hmc-fast: {sentence}", file=sys.stderr)
    return 1 if failed else 0


def _again(out: Path) -> str:
    """The command that goes on after a stop, under torchrun where this process is."""
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    torchrun = ["torchrun", "--nproc-per-node", processes, "-m", "hmc_fast.cli"]
    program = ["hmc-fast"] if processes == "1" else torchrun
    return shlex.join([*program, "study", "--resume", "--out", str(out)])
