"""Print a run's headline figures: python workflow/scripts/headline.py [results/<run> or its configuration file]."""

import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workflow" / "lib"))

from antibody_sae import config  # noqa: E402
from antibody_sae.io import InputError, read_json  # noqa: E402
from antibody_sae.report import summary  # noqa: E402


def folder(given: str | None) -> Path:
    """The run's folder, given itself, a configuration file, or nothing (config.yaml)."""
    if given and Path(given).is_dir():
        return Path(given)
    settings = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8")) or {}
    if given:
        settings |= yaml.safe_load(Path(given).read_text(encoding="utf-8")) or {}
    return Path("results") / config.complete({"run": settings.get("run", "default")})["run"]


if __name__ == "__main__":
    try:
        run = folder(sys.argv[1] if len(sys.argv) > 1 else None)
        clear = "\033[2J\033[H" if sys.stdout.isatty() else "\n"  # the table alone on a terminal's screen
        print(f"{clear}{summary.headline(read_json(run / 'tables' / 'summary.json'))}")
        print(f"\nReport: {run / 'report' / 'index.html'}")
    except InputError as error:
        sys.exit(f"Error: {error}")
