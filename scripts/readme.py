"""`make readme`: rewrite the README's results from results/ledger."""

import sys
from pathlib import Path

from effdl.errors import EffdlError
from effdl.reproduce.readme import rewrite

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    readme = ROOT / "README.md"
    try:
        readme.write_text(rewrite(readme.read_text(), ROOT / "results"))
    except EffdlError as error:
        print(f"effdl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
