"""A library from an entry of the configuration."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from antibody_sae import config
from antibody_sae.designs import build, library, outputs, page
from antibody_sae.interventions import Where
from antibody_sae.io import InputError, write_json
from antibody_sae.report.charts.base import Palette, svg
from antibody_sae.report.run import Run
from antibody_sae.report.tabs import library as tab
from antibody_sae.steering import sampling
from designs_world import BATCH, CONCEPTS, TRASTUZUMAB


def test_an_entry_without_a_lever_is_rejection_sampling(iglm_s, monkeypatch, tmp_path):
    for module in (sampling, library):
        monkeypatch.setattr(module, "BATCH", BATCH)
    asked = _defaults({"lever": "none", "concepts": {"j-gene=IGHJ4": "high"}, "n": 3, "baseline": 32})
    sections = {"writing": library.WRITING, "numbering": library.NUMBERING, "concepts": CONCEPTS}
    none = build.NO_LEVERS
    natural = pd.DataFrame({"antibody_id": ["t"], "heavy": [TRASTUZUMAB], "light": [None]})
    chains, about = build.build("lib", asked, iglm_s, 2, none, {}, sections, {}, natural)
    assert chains["set"].value_counts()["design"] == 3
    assert (chains["set"] == "natural").sum() == 1
    assert chains.loc[chains["set"] == "design", "j_call"].str.startswith("IGHJ4").all()
    assert about["lever"]["kind"] == "none"
    price = about["price"]
    assert price["rejection_low"] < price["rejection_tokens_per_design"] < price["rejection_high"]
    library_chains = chains[chains["set"] == "design"]
    data = page.page(chains, {**about}, outputs.picked(library_chains, 2))
    assert data["counts"]["design"] == 3
    assert data["distributions"]["J gene"]["design"] == {"IGHJ4": 1.0}
    assert len(data["picked"]) == 2
    assert {point["set"] for point in data["diversity"]} == set(data["counts"])
    write_json(data, tmp_path / "designs" / "lib" / "page.json")
    (section,) = tab.sections(Run(tmp_path, {**config.complete({}), "designs": ["lib"]}), Palette([]))
    assert "Nothing was pushed" in section.text
    assert "without steering" in section.text
    drawn = {figure.name: figure for figure in section.figures}
    assert {"library-lib-funnel", "library-lib-lengths", "library-lib-j-gene", "library-lib-logo-natural",
            "library-lib-diversity"} <= set(drawn)  # fmt: skip
    assert drawn["library-lib-funnel"].data["left"].iloc[-1] == 3
    assert "<svg" in svg(drawn["library-lib-funnel"])
    assert len(section.tables[1].cells) == 2
    with pytest.raises(InputError, match="no concept"):
        build.constraints(_defaults({"concepts": {"jgene=IGHJ4": "high"}}), CONCEPTS)
    with pytest.raises(InputError, match="no lever for any"):
        build.build("lib", {**asked, "lever": "trained"}, iglm_s, 2, none, {}, sections, {}, None)


def _defaults(entry):
    return config.complete({"designs": {"lib": entry}})["designs"]["lib"]


def test_a_located_vector_pushes_the_region_where_its_target_is_decided():
    levers = build.Levers(
        {}, {}, {"located FR1": {"v-family=IGHV4": torch.tensor([0.0, 2.0])}},
        {"located FR1": {"region": "FR1", "share": 0.25}}, 10.0, {},
    )  # fmt: skip
    asked = _defaults({"concepts": {"v-family=IGHV4": "high"}, "lever": "located", "length": 0.3})
    (handle,) = build.candidates(asked, levers, {"FR1": (0, 25)})
    assert handle.intervention.where == Where("FR1", counts={"FR1": (0, 25)})
    assert handle.intervention.vector.tolist() == pytest.approx([0.0, 0.3 * 10 / 0.25**0.5])
