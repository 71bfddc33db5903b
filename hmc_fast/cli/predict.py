"""`hmc-fast predict`: image files through a run's model, to CSV."""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hmc_fast.attention import BACKENDS
from hmc_fast.cli.arguments import check_out
from hmc_fast.data.dataset import pixel_hash
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.files import csv_text, write_text
from hmc_fast.models.saved import DESCRIPTION, load_model, read_description, trained_folds
from hmc_fast.progress import progress
from hmc_fast.training.config import check_attention, resolve_device
from hmc_fast.training.opened_run import protocol_note
from hmc_fast.training.run_folder import IMAGES, read_json

DESCRIPTION_TEXT = (
    "Class probabilities of image files. A run's folds are averaged unless --fold names one. "
    "For research; not for diagnosis."
)


def add_parser(subparsers: Any) -> None:
    """Add `predict` to the subcommands."""
    parser = subparsers.add_parser(
        "predict", help="image files to CSV", description=DESCRIPTION_TEXT
    )
    parser.add_argument(
        "model", metavar="RUN", type=Path, help="folder of a run, or of one of its folds"
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", type=Path, help="image files")
    parser.add_argument(
        "--fold",
        type=int,
        default=None,
        help="use this fold's model alone; default: the mean of all",
    )
    parser.add_argument("--out", type=Path, default=None, help="CSV file; default: standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--backend", default="auto", choices=BACKENDS, help="attention backend")
    parser.add_argument("--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Predict; returns 0, or 1 where some of the images could not be read (each is named)."""
    check_out(args.out)
    device = resolve_device(args.device)
    check_attention(args.backend, device)
    models = _load(args.model, args.fold, args.backend, device)
    for note in protocol_note(models[0].description.get("protocol", "")):
        if not args.quiet:
            print(f"hmc-fast: {note}", file=sys.stderr)
    seen = _training_images(args.model)
    rows, failed = [], []
    to_stdout = args.out is None and not sys.stderr.isatty()  # where no line may stand in the CSV
    for path in progress(args.images, "predicting", quiet=args.quiet or to_stdout):
        try:
            image = read_image(path)
        except InputError as error:
            failed.append(str(error))
            continue
        if pixel_hash(image) in seen and not args.quiet:
            print(
                f"hmc-fast: note: {path} is one of the run's own images: use predictions.csv",
                file=sys.stderr,
            )
        probabilities = _probabilities(models, image, device)
        predicted = models[0].classes[max(range(len(probabilities)), key=probabilities.__getitem__)]
        rows.append([str(path), predicted, *probabilities])
    for sentence in failed:
        print(f"hmc-fast: {sentence}", file=sys.stderr)
    if not rows:
        raise InputError("none of the images could be read")
    _write(args, ["image", "predicted", *(f"p_{name}" for name in models[0].classes)], rows)
    return 1 if failed else 0


def _load(run_folder: Path, fold: int | None, backend: str, device: torch.device) -> list[Any]:
    if (run_folder / DESCRIPTION).is_file():
        own = read_description(run_folder).get("fold")
        if fold not in (None, own):
            raise InputError(f"{run_folder} is the folder of fold {own}: leave --fold {fold} out")
        folds = [0]
    elif fold is None and run_folder.is_dir():
        folds = trained_folds(run_folder)
        if not folds:
            raise InputError(f"{run_folder} holds no trained fold")
    else:
        folds = [fold or 0]
    models: list[nn.Module] = [load_model(run_folder, k, backend=backend) for k in folds]
    return [model.to(device).to(memory_format=torch.channels_last) for model in models]


@torch.inference_mode()
def _probabilities(models: list[Any], image: Any, device: torch.device) -> list[float]:
    """The mean over models of softmax(logits), one number a class."""
    each = [model(model.preprocessing(image).to(device)).double().softmax(1)[0] for model in models]
    return torch.stack(each).mean(0).tolist()


def _training_images(run_folder: Path) -> set[str]:
    """Hashes of the images that the run was trained and tested on."""
    for folder in (run_folder, run_folder.parent):
        if (folder / IMAGES).is_file():
            return set(read_json(folder / IMAGES).values())
    return set()


def _run_of(folder: Path) -> Path:
    """The run that a fold's folder belongs to."""
    return folder.parent if (folder / DESCRIPTION).is_file() else folder


def _write(args: argparse.Namespace, header: list[str], rows: list[list[Any]]) -> None:
    if args.out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
        return
    try:
        write_text(args.out, csv_text(header, rows))
    except OSError as error:
        raise InputError(f"cannot write {args.out}: {error.strerror or error}") from error
    if not args.quiet:
        print(f"{len(rows)} predictions: {args.out}")
        print(f"next: read {_run_of(args.model) / 'report.html'} for how far to trust them")
