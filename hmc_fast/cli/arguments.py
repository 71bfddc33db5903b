"""The parser behind every subcommand: no abbreviations, and errors of one sentence that name the
nearest flag; and checks that several of them make."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from hmc_fast.errors import InputError


class Parser(argparse.ArgumentParser):
    """argparse without prefix matching, whose errors are one line on stderr and exit code 2."""

    def __init__(self, **options: object) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
        super().__init__(**options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message}{self._hint(message)}\n")
        sys.exit(2)

    def _hint(self, message: str) -> str:
        """'did you mean --epochs?' for an unknown flag or word, else where the help is."""
        flag = re.search(r"unrecognized arguments: (--?[\w-]+)", message)
        word = re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
        near = None
        if flag:
            near = closest(flag[1], self._option_string_actions)
        elif word:
            near = closest(word[1], re.findall(r"[\w-]+", word[2]))
        return f"; did you mean {near}?" if near else f" (see {self.prog} --help)"

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """A subcommand refuses its own unknown flags, so that the hint comes from its own list."""
        namespace, extras = super().parse_known_args(args, namespace)
        if extras:
            self.error(f"unrecognized arguments: {' '.join(extras)}")
        return namespace, extras


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` begins, else the one nearest to it in spelling, or None."""
    known = sorted(known)
    begun = [name for name in known if len(word) > 2 and name.startswith(word)]
    near = begun or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return near[0] if near else None


def check_out(out: Path | None) -> None:
    """InputError where a file cannot get this name: better now than when all is computed."""
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        reason = "it is a folder" if out.is_dir() else f"{out.parent} is no folder"
        raise InputError(f"cannot write {out}: {reason}")
