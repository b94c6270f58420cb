"""Declared artefacts, one a line, each with the first of these scales that it has: python scripts/at_scale.py medium small."""

import sys

from effdl.reproduce import artefact


def main() -> None:
    for name in sorted(artefact.declared()):
        scales = artefact.load(name).artefact.scales
        if (scale := next((s for s in sys.argv[1:] if s in scales), None)) is not None:
            print(name, scale)


if __name__ == "__main__":
    main()
