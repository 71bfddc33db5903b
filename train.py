"""`hmc-fast train` for a checkout: python train.py --compile"""

import sys


def main() -> int:
    try:
        import hmc_fast  # noqa: F401
    except ImportError as error:
        print(f"train.py: {_sentence(error)}", file=sys.stderr)
        return 2
    from hmc_fast.cli import main as command_line

    return command_line(["train", *sys.argv[1:]])


def _sentence(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; install the requirements with: pip install -e ."
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
