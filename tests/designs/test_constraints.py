"""What a design must hold."""

from __future__ import annotations

import pytest
from antibody_sae.designs import constraints, library
from antibody_sae.designs.constraints import Constraints
from antibody_sae.interventions import Intervention
from antibody_sae.io import InputError
from antibody_sae.steering import outcomes, sampling
from designs_world import CONCEPTS, TRASTUZUMAB


def test_constraints_that_cannot_be_met_end_with_the_yield_of_each(iglm_s, monkeypatch):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", 16)
    monkeypatch.setattr(library, "MOST_TRIES", 4)
    limits = Constraints(max_perplexity=1.0, rates={"j-gene=IGHJ4": (1, 1)})
    with pytest.raises(InputError, match="0 of 5 designs after 16 sequences") as error:
        library.design(iglm_s, 2, Intervention(), 5, limits, concepts=CONCEPTS)
    for name in ("complete", "conserved", "j-gene=IGHJ4", "max_perplexity"):
        assert any(line.split()[0] == name and "meet it by itself" in line for line in str(error.value).splitlines())
    with pytest.raises(InputError, match="section `concepts`"):
        library.design(iglm_s, 2, Intervention(), 5, Constraints(rates={"j-gene=IGHJ4": (0, 1)}))
    with pytest.raises(InputError, match="none of"):
        Constraints(liabilities={"N-glycosilation": "all"})


@pytest.mark.parametrize(("concept", "lengths"), [
    ("cdr3-length=H:>=13", (True,)), ("cdr3-length=H:>=14", (False,)), ("cdr3-length=H:<14", (True,)),
    ("cdr3-length=H:10-13", (True,)), ("cdr3-length=H:13", (True,)), ("cdr3-charge=H:-1", (True,)),
    ("j-gene=IGHJ4", (True,)), ("motif=isomerisation", (True,)), ("motif=N-glycosylation", (False,)),
])  # fmt: skip
def test_concepts_have_thresholds_of_their_own(concept, lengths):
    found = outcomes.number_texts([TRASTUZUMAB], library.WRITING, library.NUMBERING)
    assert tuple(constraints.label(found, [concept], CONCEPTS, "human")[concept]) == lengths


def test_quota_keeps_shares_reachable():
    rates = {"x": (0.5, 0.6)}
    assert constraints.quota({"x": True}, {"x": 6}, rates, 6, 10) == "x above its rate"
    assert constraints.quota({"x": False}, {"x": 0}, rates, 5, 10) == "x below its rate"
    assert constraints.quota({"x": False}, {"x": 0}, rates, 4, 10) is None
    assert constraints.quota({"x": True}, {"x": 5}, rates, 5, 10) is None
