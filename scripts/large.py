"""Name the files that are larger than a bound in KiB: python scripts/large.py 500 FILE ...; exit code 1 if there is one."""

import sys
from pathlib import Path


def main() -> int:
    bound, *names = sys.argv[1:]
    large = [path for path in map(Path, names) if path.is_file() and path.stat().st_size > 1024 * int(bound)]
    for path in large:
        print(f"{path}: {path.stat().st_size // 1024} KiB, above {bound} KiB")
    return bool(large)


if __name__ == "__main__":
    sys.exit(main())
