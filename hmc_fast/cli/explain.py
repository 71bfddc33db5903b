"""`hmc-fast explain`: where a run's models look, as maps, pictures and figures."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hmc_fast.attention import BACKENDS
from hmc_fast.cli.arguments import closest
from hmc_fast.data.dataset import Dataset
from hmc_fast.errors import InputError
from hmc_fast.explain.colormaps import COLORMAPS
from hmc_fast.explain.explanations import IMAGES, TABLE
from hmc_fast.explain.methods import DTYPES, METHODS, RECIPES, Settings
from hmc_fast.explain.request import LABEL, PREDICTED, Request
from hmc_fast.explain.sanity import MODES
from hmc_fast.explain.selection import Film, films_of_data, films_of_words
from hmc_fast.progress import say
from hmc_fast.sentences import counted
from hmc_fast.training.config import check_attention, resolve_device
from hmc_fast.training.opened_run import OpenedRun, open_run, protocol_note
from hmc_fast.training.run_data import data_again
from hmc_fast.training.run_folder import locked

DESCRIPTION = (
    "Grad-CAM, Grad-CAM++ and Score-CAM of a run's models: maps, pictures, and how well they find "
    "known lesions. An image of the run is explained by the fold that did not train on it. The "
    "same command again goes on where it was stopped. For research; not for diagnosis."
)
ALL = "all"


def add_parser(subparsers: Any) -> None:
    """Add `explain` to the subcommands."""
    parser = subparsers.add_parser(
        "explain", help="show what a run's models look at", description=DESCRIPTION
    )
    _add_what(parser)
    _add_how(parser)
    parser.set_defaults(run=run)


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Which images, which class, where to."""
    add = parser.add_argument
    add("model", metavar="RUN", type=Path, help="folder of a run, or of one of its folds")
    add("--data", default=None, help="phantom, mias:DIR or DIR; default: the run's data")
    add(
        "--images",
        metavar="IMAGE",
        nargs="+",
        default=None,
        help="files, or names of the run's images; default: all that trained folds can explain",
    )
    add(
        "--fold",
        type=int,
        default=None,
        help="of the run's data, this test fold alone; of other images, whose model explains them",
    )
    add("--target", default=PREDICTED, help=f"{PREDICTED}, {LABEL} or the name of a class")
    add("--out", type=Path, default=None, metavar="DIR", help="default: RUN/explain")
    add("--table", action="store_true", help="means with intervals, beside the bound (table.csv)")
    add(
        "--sanity",
        nargs="?",
        const=MODES[0],
        default=None,
        choices=MODES,
        help="compare with the maps of a network made random part by part (sanity.csv)",
    )
    add("--colormap", default=COLORMAPS[0], choices=COLORMAPS, help="of the pictures")
    add("--quiet", action="store_true", help="print errors only")


def _add_how(parser: argparse.ArgumentParser) -> None:
    """How the maps are made."""
    add = parser.add_argument
    recipes = ", ".join(dict.fromkeys(name for names in RECIPES.values() for name in names))
    add(
        "--method",
        metavar="METHOD",
        nargs="+",
        default=[METHODS[0]],
        choices=(*METHODS, ALL),
        help=f"one or more of {', '.join(METHODS)}, or {ALL}",
    )
    add("--layer", nargs="+", default=["layer4"], help="one or more, each by itself; ha2 is finer")
    add("--recipe", nargs="+", default=[], help=f"of Grad-CAM++ and Score-CAM: {recipes}")
    add("--dtype", default=None, choices=tuple(DTYPES), help="Score-CAM: of its forward passes")
    add("--batch-size", type=int, default=None, help="Score-CAM: masked images at once")
    add("--max-channels", type=int, default=None, help="Score-CAM: so many channels, approximate")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--backend", default="auto", choices=BACKENDS, help="attention backend")


def run(args: argparse.Namespace) -> int:
    """Explain; returns 0, or 1 where some of the images could not be explained (each is named)."""
    request = _request(args)
    for line in protocol_note(request.run.config.protocol):
        say(line, request.quiet)
    films, failed = _films(request.run, args)
    done: list[Film] = []
    lines: list[str] = []
    if films:
        with locked(request.out):
            done, lines, more = _explain(request, films, args)
        failed += more
    for sentence in failed:
        print(f"hmc-fast: {sentence}", file=sys.stderr)
    if not done:
        raise InputError("none of the images could be explained")
    for line in [*lines, *_end(args, request, done)]:
        say(line, request.quiet)
    return 1 if failed else 0


def _explain(
    request: Request, films: Sequence[Film], args: argparse.Namespace
) -> tuple[list[Film], list[str], list[str]]:
    """The films that are explained, what the table and the sanity check say, and a sentence for
    each film that failed."""
    from hmc_fast.explain import run as job

    explanations, failed = job.explain_films(request, films)
    done = [f for f in films if explanations.holds(f.name, f.place, request.pairs)]
    lines: list[str] = []
    if done and args.table:
        lines += job.write_table(request, done, explanations)
    if done and args.sanity:
        lines += job.write_sanity(request, done, args.sanity)
    return done, lines, failed


def _request(args: argparse.Namespace) -> Request:
    """The flags, checked; nothing is written yet."""
    for name in ("batch_size", "max_channels"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} must be at least 1, got {getattr(args, name)}")
    methods = METHODS if ALL in args.method else tuple(dict.fromkeys(args.method))
    if args.sanity and "score-cam" in methods and args.max_channels is None:
        raise InputError(
            "--sanity makes every map again for each part of the network: with score-cam give "
            "--max-channels too, or leave score-cam out"
        )
    device = resolve_device(args.device)
    check_attention(args.backend, device)
    opened = open_run(args.model, args.fold)
    _check_target(args.target, opened)
    return Request(
        run=opened,
        methods=methods,
        layers=tuple(dict.fromkeys(args.layer)),
        settings=Settings(
            _recipes(args.recipe, methods), args.dtype, args.batch_size, args.max_channels
        ),
        target=args.target,
        colormap=args.colormap,
        out=(args.out or opened.folder / "explain").expanduser(),
        device=device,
        backend=args.backend,
        quiet=args.quiet,
    )


def _recipes(names: Sequence[str], methods: Sequence[str]) -> dict[str, str]:
    """Each recipe with its method: no two methods share a name, but for `grad-cam`."""
    recipes: dict[str, str] = {}
    for name in names:
        owner = next((m for m in methods if name in RECIPES[m] and m not in recipes), None)
        if owner is None:
            known = "; ".join(f"{m}: {', '.join(RECIPES[m])}" for m in methods)
            raise InputError(f"--recipe {name} fits none of the methods asked for ({known})")
        recipes[owner] = name
    return recipes


def _check_target(target: str, run: OpenedRun) -> None:
    known = (PREDICTED, LABEL, *run.config.class_names)
    if target not in known:
        near = closest(target, known)
        hint = f"; did you mean {near}?" if near else ""
        raise InputError(f"--target must be one of {', '.join(known)}, got {target!r}{hint}")


def _films(run: OpenedRun, args: argparse.Namespace) -> tuple[list[Film], list[str]]:
    """What is to be explained, and a sentence for each image that cannot be."""
    if args.images is None:
        dataset = data_again(run.config, args.data)
        films, failed = films_of_data(run, dataset)
        if run.fold is None and len(films) + len(failed) < len(dataset):
            folds = ", ".join(map(str, run.trained))
            tested = f"{len(films)} of {len(dataset)} images are tested in a trained fold ({folds})"
            say(tested, args.quiet)
        return films, failed
    return films_of_words(run, args.images, _data_at_hand(run, args))


def _data_at_hand(run: OpenedRun, args: argparse.Namespace) -> Dataset | None:
    """The data of the run for the lesions' places; files can be explained without them."""
    try:
        return data_again(run.config, args.data)
    except InputError as error:
        if args.data is not None:
            raise
        say(f"note: lesions are not known, as the run's data are not at hand: {error}", args.quiet)
        return None


def _end(args: argparse.Namespace, request: Request, films: Sequence[Film]) -> list[str]:
    """Where everything is, and what to do next."""
    lines, out = [], request.out
    if "score-cam" in request.methods and args.max_channels:
        lines.append(f"note: Score-CAM from {args.max_channels} channels is an approximation")
    maps = counted(len(films) * len(request.pairs), "map")
    images = counted(len(films), "image")
    lines.append(f"{maps} of {images}: {out / TABLE}, pictures in {out / IMAGES}")
    if not args.table:
        lines.append(f"next: {args.command_line} --table")
    elif not args.sanity and "score-cam" not in request.methods:
        lines.append(f"next: {args.command_line} --sanity")
    else:
        lines.append(f"next: look at {out / IMAGES / films[0].place}/panel.{request.layers[0]}.png")
    return lines
