"""The two things .ci/run asks: what does the README say, and was the first run good enough?

python .ci/checks.py command NAME   print the bash block under <!-- NAME --> in README.md
python .ci/checks.py metrics        check the newest runs/hmc-*/metrics.json
"""

import json
import re
import sys
from pathlib import Path

BALANCED_ACCURACY = 0.55
INTERVAL_LOW = 0.40


def command(name: str) -> str:
    """The one block under the marker `name`; anything but one is a failure."""
    pattern = rf"^<!-- {re.escape(name)} -->\n```bash\n(.*?)^```$"
    blocks = re.findall(pattern, Path("README.md").read_text(), re.DOTALL | re.MULTILINE)
    if len(blocks) != 1:
        sys.exit(f"README.md must hold one bash block under <!-- {name} -->, found {len(blocks)}")
    return blocks[0].strip()


def metrics() -> str:
    """What the newest run reached, if that is enough."""
    files = sorted(Path("runs").glob("hmc-*/metrics.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit("command one left no runs/hmc-*/metrics.json")
    pooled = json.loads(files[-1].read_text())["pooled"]
    value, (low, high) = pooled["balanced_accuracy"], pooled["intervals"]["balanced_accuracy"]
    found = f"{files[-1]}: pooled balanced accuracy {value:.3f} ({low:.3f} to {high:.3f})"
    if value < BALANCED_ACCURACY or low <= INTERVAL_LOW:
        sys.exit(f"{found}; wanted at least {BALANCED_ACCURACY} and a low end above {INTERVAL_LOW}")
    return found


if __name__ == "__main__":
    print(command(sys.argv[2]) if sys.argv[1] == "command" else metrics())
