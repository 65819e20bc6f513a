"""Designs from a parent: infilling and prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from antibody_sae.designs import library, parents
from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError
from antibody_sae.steering import alternatives, sampling
from designs_world import TRASTUZUMAB


@pytest.fixture(scope="module")
def parent():
    return parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["CDR1", "CDR3"]}, "H", library.NUMBERING)


def test_infilling_rewrites_the_regions_alone(iglm_s, parent, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 8)
    made = library.design(iglm_s, 2, Intervention(), 4, parent=parent, infill=True).chains
    regions = parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["FR1", "FR2", "CDR2", "FR3", "FR4"]}, "H",
                             library.NUMBERING)  # fmt: skip
    for column, region in (("fwr1_aa", "FR1"), ("fwr2_aa", "FR2"), ("cdr2_aa", "CDR2"), ("fwr4_aa", "FR4")):
        start, end = regions.spans[region]
        assert (made[column] == TRASTUZUMAB[start:end]).all()
    assert made["cdr3_aa"].nunique() == 4
    assert not (made["cdr3_aa"] == "SRWGGDGFYAMDY").any()


def test_infilling_reads_what_iglm_was_trained_on(iglm_s, parent):
    """[HEAVY][HUMAN] EVQ...[MASK]WGQ...[SEP], and the span ends with [CLS]; positions as in the package's own code."""
    start, end = parent.spans["CDR3"]
    model = alternatives.filler(iglm_s, "H", "human", TRASTUZUMAB[:start], TRASTUZUMAB[end:])
    vocabulary = {token: i for i, token in enumerate(_vocabulary())}
    text = [*TRASTUZUMAB[:start], "[MASK]", *TRASTUZUMAB[end:], "[SEP]"]
    assert model.prefix("H") == [vocabulary[t] for t in ("[HEAVY]", "[HUMAN]", *text)]
    assert model.stop_token("H") == vocabulary["[CLS]"]


def _vocabulary():
    import iglm

    return (Path(iglm.__file__).parent / "trained_models" / "vocab.txt").read_text().split()


def test_a_prompt_keeps_what_comes_before(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 8)
    parent = parents.parent({"heavy": TRASTUZUMAB, "rewrite": ["CDR3"]}, "H", library.NUMBERING)
    made = library.design(iglm_s, 2, Intervention(), 3, parent=parent)
    assert made.chains["sequence_aa"].str.startswith(TRASTUZUMAB[:96]).all()
    assert made.price < 40  # the prompt costs nothing


def test_a_parent_must_be_a_domain():
    with pytest.raises(InputError, match=r"from\.heavy"):
        parents.parent({"light": "DIQ", "rewrite": ["CDR3"]}, "H", library.NUMBERING)
    with pytest.raises(InputError, match="whole variable domain"):
        parents.parent({"heavy": "EVQLVES", "rewrite": ["CDR3"]}, "H", library.NUMBERING)
