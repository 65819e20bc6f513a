"""The documents: links lead somewhere, the configuration's reference is the schema's, words are plain, one version."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from antibody_sae import __version__
from antibody_sae.models.presets import PRESETS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
QUIRKS = (
    "nobody can say", "nothing twice", "asked twice", "writes what it reads", "what it writes", "is one of layer",
    "not the bar", "who steers", "what else moves", "living latents", "vouch", "may speak", "make them obey",
)  # fmt: skip


def named(path):
    return str(path.relative_to(ROOT))


def test_the_reference_is_what_the_schema_says():
    done = subprocess.run(
        [sys.executable, "docs/configuration.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = (ROOT / "docs" / "configuration.md").read_text()
    assert text == done.stdout, "python docs/configuration.py > docs/configuration.md"
    assert "`aux_weight`" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", path.read_text())):
        file, _, heading = link.partition("#")
        if not link.startswith("http"):
            target = path.parent / file if file else path
            assert target.exists(), f"{path.name} links to {link}"
            headings = (
                [re.sub(r"[^a-z0-9 -]", "", line.lower()) for line in target.read_text().splitlines()]
                if heading
                else []
            )
            assert not heading or heading in [h.strip().replace(" ", "-") for h in headings], f"{path.name}: {link}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_files_that_are_named_are_there(path):
    """Paths in backticks that begin with a folder of the project."""
    for name in re.findall(r"`((?:workflow|tests|envs|docs)/[\w./-]+)`", path.read_text()):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_the_readme_lists_the_presets():
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in PRESETS if f"`{name}`" not in readme]


def test_one_version():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    module, _, name = project["tool"]["setuptools"]["dynamic"]["version"]["attr"].rpartition(".")
    assert getattr(import_module(module), name) == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_words_are_plain():
    texts = [
        *DOCUMENTS,
        *ROOT.glob("workflow/**/*.py"),
        *ROOT.glob("workflow/**/*.rst"),
        *ROOT.glob("workflow/**/*.j2"),
    ]
    found = [(named(path), quirk) for path in texts for quirk in QUIRKS if quirk in path.read_text().lower()]
    assert not found
