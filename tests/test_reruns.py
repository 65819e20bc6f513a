"""Which rules an edit of each library module reruns: a file's edge is a cache's edge.

What an edit touches is the rules whose scripts stand on the module; what reads their outputs follows if those change.
"""

import re
import shutil

import pytest
from antibody_sae import source

REPORT = {"tables", "report"}
RERUNS: dict[str, set[str]] = {}
"""Module -> rules; `python tests/test_reruns.py` prints it for the present code. Look at a change before you accept it:
does an edit of what is measured, tabulated or drawn write a sequence or train an SAE again?"""


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


def reruns(root, library):
    """Module -> rules whose hash an edit of it changes, in a copy of the library."""
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


@pytest.fixture
def library(tmp_path, monkeypatch):
    copy = tmp_path / source.PACKAGE
    shutil.copytree(source.LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source, "LIBRARY", copy)
    return copy


def test_each_edit_reruns_what_the_table_says(root, library):
    assert reruns(root, library) == RERUNS
