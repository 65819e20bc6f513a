"""Whether two runs found the same: python tests/compare_runs.py results/a results/b; exit status 1 where not."""

import hashlib
import sys
from pathlib import Path


def tables(run: Path) -> dict[str, str]:
    """Hash of each table of a run: tables/*, and the Parquet files that they are made of."""
    folders = ("tables", "numbering", "splits", "concepts", "latents", "steering")
    files = [p for folder in folders for p in sorted((run / folder).rglob("*")) if p.is_file()]
    return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def main(first: str, second: str) -> int:
    """Prints one hash a run, and the files that differ."""
    one, other = tables(Path(first)), tables(Path(second))
    for name, found in ((first, one), (second, other)):
        print(f"{hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:16]}  {name}, {len(found)} files")
    differ = sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))
    print("\n".join(f"differs: {path}" for path in differ) or "the same, byte for byte")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
