"""The library's layout, and the hash that says which rules an edit reruns."""

import re
from collections import Counter

import pytest
from antibody_sae import source
from antibody_sae.source import LIBRARY

STAGES = [
    "antibody", "sections", "io", "source", "jobs", "species", "hardware", "significance", "models", "numbering",
    "sequences", "splits", "activations", "sae", "concepts", "config", "interventions", "steering", "designs", "report",
    "preflight",
]  # fmt: skip
"""A module imports from its own folder and from those before it."""


def stage(path):
    return path.relative_to(LIBRARY).with_suffix("").parts[0]


def modules():
    return sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")


def test_imports_go_down_the_stages():
    for path in modules():
        assert stage(path) in STAGES, f"{path.name} has no place among the stages"
        later = {stage(p) for p in source.imports(path)} - set(STAGES[: STAGES.index(stage(path)) + 1])
        assert not later, f"{path.relative_to(LIBRARY)} imports {later}, which come later"


def test_no_circle_of_imports():
    for path in modules():
        assert path not in source.imports(path), f"{path.relative_to(LIBRARY)} imports itself through others"


def test_files_are_small():
    long = [path.name for path in modules() if len(path.read_text().splitlines()) > 500]
    assert not long, f"{long} have more than 500 lines"


def test_a_class_has_a_name_of_its_own():
    names = [name for path in modules() for name in re.findall(r"^class ([A-Z]\w*)", path.read_text(), re.M)]
    assert not [name for name, n in Counter(names).items() if n > 1]


@pytest.fixture
def changed(tmp_path, monkeypatch):
    """changed(before, after): whether the hash of a script differs."""

    def hashes(*texts):
        found = []
        for text in texts:
            script = tmp_path / "script.py"
            script.write_text(text)
            source._parsed.cache_clear()
            source.source_hash.cache_clear()
            found.append(source.source_hash(str(script)))
        return found[0] != found[1]

    return hashes


def test_only_what_runs_counts(changed):
    code = '"""Does a thing."""\nfrom antibody_sae import splits\n\n\ndef f():\n    """Says so."""\n    return 1\n'
    assert not changed(code, code.replace("Does a thing", "Does another").replace("Says so", "Says more"))
    assert not changed(code, code + "# why\n")
    assert not changed(code, code + "if TYPE_CHECKING:\n    from antibody_sae.models.model import AntibodyModel\n")
    assert changed(code, code.replace("return 1", "return 2"))
    assert changed(code, code.replace("splits", "io"))


def test_a_name_from_a_face_is_refused(tmp_path):
    """The hash cannot follow it to the module that holds it."""
    script = tmp_path / "script.py"
    script.write_text("from antibody_sae.sae import SAE\n")
    with pytest.raises(ImportError, match="from its own module"):
        source.imports(script)
