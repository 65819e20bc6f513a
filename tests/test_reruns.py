"""Which rules an edit of each library module reruns (reruns.txt): a file's edge is a cache's edge.

What an edit touches is the rules whose scripts stand on the module; what reads their outputs follows if those change.
Look at a change before you accept it (python tests/test_reruns.py > tests/reruns.txt): does an edit of what is
measured, tabulated or drawn write a sequence or train an SAE again?
"""

import re
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

from antibody_sae import source

TABLE = Path(__file__).with_name("reruns.txt")


def scripts(root):
    """Rule -> its script."""
    text = "".join(path.read_text() for path in sorted((root / "workflow" / "rules").glob("*.smk")))
    pieces = re.split(r"^\s*(?:rule|checkpoint) (\w+):", text, flags=re.M)
    found = {
        name: re.search(r'code=code\("([^"]+)"\)', body) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)
    }
    return {name: root / "workflow" / "scripts" / match[1] for name, match in found.items() if match}


def hashes(rules):
    source.source_hash.cache_clear()
    return {rule: source.source_hash(str(script)) for rule, script in rules.items()}


def reruns(root, folder):
    """Module -> rules whose hash an edit of it changes, found in a copy of the library."""
    library = folder / source.PACKAGE
    shutil.copytree(source.LIBRARY, library, ignore=shutil.ignore_patterns("__pycache__"))
    with patch.object(source, "LIBRARY", library):
        rules, before, table = scripts(root), hashes(scripts(root)), {}
        for path in sorted(library.rglob("*.py")):
            if path.name != "__init__.py":
                text = path.read_text()
                path.write_text(text + "\nEDITED = True\n")
                after = hashes(rules)
                path.write_text(text)
                name = ".".join(path.relative_to(library).with_suffix("").parts)
                table[name] = {rule for rule in rules if after[rule] != before[rule]}
    return table


def test_each_edit_reruns_what_the_table_says(root, tmp_path):
    said = dict(line.split(": ") for line in TABLE.read_text().splitlines())
    assert reruns(root, tmp_path) == {module: set(rules.split()) for module, rules in said.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for module, rules in reruns(Path(__file__).parents[1], Path(folder)).items():
            print(f"{module}: {' '.join(sorted(rules))}")
