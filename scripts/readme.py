"""`make readme`: rewrite the results in the README and in those of the experiments from results/ledger."""

import sys
from pathlib import Path

from effdl.errors import EffdlError
from effdl.reproduce.readme import pages, rewrite

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    try:
        for page in pages(ROOT):
            page.write_text(rewrite(page, ROOT / "results"))
    except EffdlError as error:
        print(f"effdl: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
