"""Print what a run will take before it starts; python workflow/scripts/preflight.py CORES FOLDER < config.json"""

import json
import sys

from antibody_sae import preflight
from antibody_sae.io import InputError

if __name__ == "__main__":
    try:
        print(preflight.check(json.load(sys.stdin), int(sys.argv[1]), sys.argv[2]), file=sys.stderr)
    except InputError as error:
        sys.exit(f"Error: {error}")
