"""Argument parsing of the benchmarks: an error is one sentence, exit code 2."""

import argparse
from typing import NoReturn

import torch


class Parser(argparse.ArgumentParser):
    """Without usage lines before an error, and without abbreviations."""

    def __init__(self, description: str) -> None:
        super().__init__(description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")

    def need_gpu(self) -> None:
        """Leave with one sentence where there is no CUDA device."""
        if not torch.cuda.is_available():
            self.error("this needs a CUDA device, and there is none")
