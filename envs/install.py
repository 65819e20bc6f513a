"""Install a lock file with pip and say what arrives: python envs/install.py LOCK. Packages come in hundreds of MB."""

import re
import subprocess
import sys
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "-r"]


def main(lock: str) -> int:
    """pip's exit status; a line a package of 5 MB or more, and pip's own words where it fails."""
    total = sum(bool(re.match(r"[\w.-]+==", line)) for line in Path(lock).read_text(encoding="utf-8").splitlines())
    print(f"installing {total} packages from {lock} (minutes; the large ones are named)", flush=True)
    said: list[str] = []
    seen = 0
    with subprocess.Popen([*PIP, lock], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout or ():
            said.append(line)
            seen += line.startswith("Collecting ")
            found = re.match(r"\s+(?:Downloading|Using cached) (\S+?)-\d\S* \((\d+\.\d MB|\d+ MB)\)", line)
            if found and float(found[2].split()[0]) >= 5:
                place = f"{seen} of {total}" if seen <= total else "more, for GPUs"
                print(f"  {place}: {found[1]}, {found[2]}", flush=True)
            if line.startswith("Installing collected"):
                print("  unpacking", flush=True)
    if pip.returncode:
        print("".join(said[-20:]))
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
