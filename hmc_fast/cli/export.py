"""`hmc-fast export`: a network as an ONNX or torch.export file, compared before it is written."""

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmc_fast import __version__
from hmc_fast.cli.arguments import check_out
from hmc_fast.data.phantom import open_phantom
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.errors import InputError
from hmc_fast.files import write_bytes
from hmc_fast.models.baselines import BASELINES
from hmc_fast.models.exported import (
    BATCHES,
    CALLS,
    SUFFIXES,
    WRITERS,
    folded_for_export,
    largest_difference,
    score_bytes,
    traced,
)
from hmc_fast.models.saved import (
    DESCRIPTION,
    WEIGHTS_SHA256,
    find_fold,
    load_model,
    read_description,
    trained_folds,
)
from hmc_fast.progress import say
from hmc_fast.training.config import TrainConfig

LIMIT = 1e-4  # of the difference in a probability
GIB = 1024**3
NOTICE = "For research; not a medical device."
EXTRA = 'pip install "hmc-fast[export]"'
KEPT = ("variant", "reduction", "scale", "fold", "version", WEIGHTS_SHA256)  # of model.json


def add_parser(subparsers: Any) -> None:
    """Add `export` to the subcommands."""
    parser = subparsers.add_parser(
        "export",
        help="a run's network as an ONNX or torch.export file",
        description="Write a run's network as a program that runs without hmc_fast, and compare "
        f"it with the network first. {NOTICE}",
    )
    parser.add_argument(
        "model", metavar="RUN", type=Path, help="folder of a run, or of one of its folds"
    )
    parser.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="of the file")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--folded",
        action="store_true",
        default=None,
        help="with everything multiplied out (default; not of VGG and ViT)",
    )
    form.add_argument(
        "--plain", dest="folded", action="store_false", default=None, help="layer by layer"
    )
    parser.add_argument(
        "--fold", type=int, default=None, help="which fold's network; default: the first trained"
    )
    parser.add_argument(
        "--grayscale", action="store_true", help="input of one channel instead of three equal ones"
    )
    parser.add_argument(
        "--image-size", type=int, default=None, help="pixels of a side; default: the run's"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="file, replaced if it exists; default: RUN/exported-fold0.onnx or .pt2",
    )
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export; the file is written only if its program agrees with the network."""
    if args.format == "onnx":
        _check_packages()
    folder = _fold_folder(args.model, args.fold)
    model: Any = load_model(folder, backend="reference")
    variant, fold = model.description["variant"], model.description["fold"]
    folded = variant not in BASELINES if args.folded is None else args.folded
    preprocessing = _preprocessing(model, args.image_size, args.grayscale)
    _check_memory(model, preprocessing.image_size)
    out = args.out or args.model / _default_name(fold, folded, args.format)
    check_out(out)
    form = "folded" if folded else "plain"
    network = _network(model, folded, args.grayscale)
    size = f"{preprocessing.image_size} px"
    say(f"exporting fold {fold} of {args.model}: {variant}, {form}, {size}", args.quiet)

    metadata = _metadata(model, form, preprocessing)
    program = traced(network, preprocessing.image_size, preprocessing.channels)
    data = WRITERS[args.format](program, json.dumps(metadata, indent=2))
    compared = _compare(args.format, data, model, preprocessing)
    _write(out, data)
    say(compared, args.quiet)
    say(f"{out}: {len(data) / 1e6:.1f} MB", args.quiet)
    say("next: run it as docs/export.md says", args.quiet)
    return 0


def _check_packages() -> None:
    """Better now than when all is traced."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        sentence = f"--format onnx needs the packages onnx and onnxscript: {EXTRA} ({error})"
        raise InputError(sentence) from error


def _fold_folder(run_folder: Path, fold: int | None) -> Path:
    """The folder of the fold that was asked for, else of the first trained one."""
    if fold is None:
        return find_fold(run_folder, min(trained_folds(run_folder), default=0))
    folder = find_fold(run_folder, fold)
    own = read_description(folder).get("fold")
    if fold != own and (run_folder / DESCRIPTION).is_file():
        raise InputError(f"{run_folder} is the folder of fold {own}: leave --fold {fold} out")
    return folder


def _preprocessing(model: Any, image_size: int | None, grayscale: bool) -> Preprocessing:
    """The run's own with the size and the channels that were asked for."""
    own = model.preprocessing
    size = own.image_size if image_size is None else image_size
    if size != own.image_size:
        TrainConfig(image_size=size)  # its sentence and its limits
        if model.description["variant"] == "vit_b_16":
            raise InputError(
                f"a vit_b_16 takes the size it was trained at, {own.image_size}: "
                f"leave --image-size {size} out"
            )
    return dataclasses.replace(own, image_size=size, channels=1 if grayscale else own.channels)


def _check_memory(model: nn.Module, image_size: int) -> None:
    """Textbook attention stores all scores; better a sentence now than a killed process."""
    needed = score_bytes(model, image_size, max(BATCHES)) / GIB
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    if needed > present:
        raise InputError(
            f"an exported network stores all attention scores: {max(BATCHES)} images of "
            f"{image_size} pixels, which it is compared on, take {needed:.0f} GiB, and this "
            f"machine has {present:.0f}: give a smaller --image-size"
        )


def _network(model: nn.Module, folded: bool, grayscale: bool) -> nn.Module:
    """The form to export."""
    if not folded and grayscale:
        raise InputError("--grayscale needs the folded form: a plain network takes three channels")
    try:
        return folded_for_export(model, grayscale) if folded else model
    except ValueError as error:
        raise InputError(f"cannot export the folded form: {error}; give --plain") from error


def _default_name(fold: int, folded: bool, file_format: str) -> str:
    """exported-fold0.onnx; the plain form has a name of its own."""
    return f"exported-fold{fold}{'' if folded else '-plain'}{SUFFIXES[file_format]}"


def _metadata(model: Any, form: str, preprocessing: Preprocessing) -> dict[str, Any]:
    """What a user of the file has to know; `version` is that of the training."""
    return {
        "notice": NOTICE,
        "classes": list(model.classes),
        "preprocessing": preprocessing.to_dict(),
        "form": form,
        "dtype": "float32",
        **{name: model.description.get(name) for name in KEPT},
        "exported_by": f"hmc-fast {__version__}, torch {torch.__version__}",
    }


def _compare(file_format: str, data: bytes, model: Any, preprocessing: Preprocessing) -> str:
    """A sentence on how the file agrees with the run's own network; InputError if it does not."""
    batches = " and ".join(str(batch) for batch in BATCHES)
    try:
        call = CALLS[file_format](data)
    except ImportError as error:
        return f"not compared with the network: onnxruntime is missing ({error}): {EXTRA}"
    images, expected = _expected(model, preprocessing)
    difference = largest_difference(call, images[:, : preprocessing.channels], expected)
    if not difference <= LIMIT:  # NaN too
        raise InputError(
            f"the exported program differs from the network by up to {difference:.1e} in a "
            f"probability, more than {LIMIT:.0e}: nothing was written; try --plain or the other "
            "--format"
        )
    return (
        f"largest difference in a probability, {max(BATCHES)} phantom films in batches of "
        f"{batches}: {difference:.1e}"
    )


@torch.no_grad()
def _expected(model: Any, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Phantom films (B, 3, S, S), and the probabilities that the run's network gives them."""
    count, size = max(BATCHES), preprocessing.image_size
    phantom = open_phantom(-(-count // 2), size=size)
    three_channels = Preprocessing(size)
    images = torch.cat([three_channels(phantom.read(index)) for index in range(count)])
    return images, model(images).softmax(1)


def _write(out: Path, data: bytes) -> None:
    try:
        write_bytes(out, data)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
