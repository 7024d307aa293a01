"""One command for each claim of the manual: `python -m benchmarks NAME [options]`.

`python -m benchmarks list` tells what there is, `NAME --help` its options. A benchmark
checks its answer before it looks at the clock, and keeps rows in `benchmarks/results/`,
of which `tables` makes the pages in `docs/measurements/`.
"""

import ast
import importlib
import sys
from pathlib import Path


def commands() -> dict[str, str]:
    """What each benchmark measures, in its own first line."""
    found = {}
    here = Path(__file__).parent
    files = {path.stem: path for path in here.glob("[!_]*.py")}
    files |= {path.parent.name: path for path in here.glob("*/__init__.py")}
    for name, path in sorted(files.items()):
        tree = ast.parse(path.read_text())
        if any(getattr(node, "name", "") == "main" for node in tree.body):
            found[name] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main():
    """Run the benchmark that is named."""
    known = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "list"
    if name in ("list", "--help", "-h"):
        print(__doc__)
        for each, what in known.items():
            print(f"{each:20} {what}")
    elif name in known:
        importlib.import_module(f"benchmarks.{name}").main(sys.argv[2:])
    else:
        sys.exit(f"No benchmark {name}: one of {', '.join(known)}.")


if __name__ == "__main__":
    main()
