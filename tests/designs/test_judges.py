"""Judges: what they say of known antibodies, where their packages are installed (`make oracles`)."""

from __future__ import annotations

import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from antibody_sae.designs import judges
from antibody_sae.io import InputError

HEAVY = (
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKG"
    "RFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS"
)
MOUSE = (
    "QVQLQQPGAELVKPGASVKMSCKASGYTFTSYNMHWVKQTPGRGLEWIGAIYPGNGDTSYNQKFKG"
    "KATLTADKSSSTAYMQLSSLTSEDSAVYYCARSTYYGGDWYFNVWGAGTTVTVSA"
)
"""Rituximab's heavy chain, which is a mouse's."""
PAIRS = pd.DataFrame(
    {"heavy": [HEAVY, MOUSE, None], "light": [judges.PARTNER["sequence"], None, judges.PARTNER["sequence"]]}
)


def needs(package):
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed: make oracles")


def test_a_judge_that_is_not_installed_says_what_to_do(monkeypatch):
    def missing(name):
        raise judges.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(judges.metadata, "version", missing)
    with pytest.raises(InputError, match=r"promb 1\.0\.2 \(MIT\).*make oracles"):
        judges.run("oasis", PAIRS)
    with pytest.raises(InputError, match="oasis, antiberty, flashtap"):
        judges.run("hope", PAIRS)


def test_licences_are_said():
    assert judges.licences(["flashtap"]) == "flashtap: flash-abb 0.0.5 (BSD-3-Clause)"


def test_compared_sets_are_thinned_designs_are_not(monkeypatch):
    monkeypatch.setattr(judges, "COMPARED", 3)
    chains = pd.DataFrame(
        {"set": ["design"] * 5 + ["natural"] * 5, "cell_id": [f"{i}" for i in range(10)], "side": "heavy",
         "sequence_aa": HEAVY}
    )  # fmt: skip
    found = judges.judged(chains)
    assert found["set"].tolist() == ["design"] * 5 + ["natural"] * 3
    assert found["light"].isna().all()


@needs("promb")
def test_oasis_tells_human_from_mouse():
    found = judges.run("oasis", PAIRS)
    assert found["oasis_heavy"][0] == pytest.approx(0.705, abs=0.001)
    assert found["oasis_heavy"][1] == pytest.approx(0.522, abs=0.001)  # chimeric: a mouse domain
    assert found["oasis_heavy"].isna()[2]
    assert found["oasis_light"][0] > 0.7


@needs("antiberty")
def test_antiberty_knows_species_chain_and_sense():
    shuffled = "".join(np.random.default_rng(0).permutation(list(HEAVY)))
    found = judges.run("antiberty", pd.DataFrame({"heavy": [HEAVY, MOUSE, shuffled], "light": [None] * 3}))
    assert found["antiberty_species_heavy"].tolist()[:2] == ["human", "mouse"]
    assert (found["antiberty_chain_heavy"][:2] == "heavy").all()
    assert found["antiberty_pll_heavy"][0] > -0.8 > found["antiberty_pll_heavy"][2]


@needs("flash_abb")
def test_flashtap_scores_pairs_and_names_the_partner():
    found = judges.run("flashtap", PAIRS)
    assert found["flashtap_partner"].tolist()[0] is None or pd.isna(found["flashtap_partner"][0])
    assert found["flashtap_partner"][1] == "trastuzumab light chain"
    assert found["flashtap_psh"].isna()[2]
    assert 80 < found["flashtap_psh"][0] < 180
    assert 0.8 < found["flashabb_confidence"][0] < 1
    assert set(found["flashtap_flags"].dropna()) <= {0, 1, 2, 3, 4}


@needs("flash_abb")
def test_flags_are_where_the_packages_own_calibrator_puts_them():
    """Reads the calibrator's arrays by an unpickler that knows numbers alone."""

    class Isotonic:
        def __setstate__(self, state):
            self.__dict__.update(state)

    class Numbers(pickle.Unpickler):
        def find_class(self, module, name):
            if name == "IsotonicRegression":
                return Isotonic
            if module.split(".")[0] == "numpy" and name in {"scalar", "_reconstruct", "ndarray", "dtype"}:
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"{module}.{name}")

    folder = Path(find_spec("flash_abb").submodule_search_locations[0])
    with open(folder / "weights" / "flag_calibrators.pkl", "rb") as handle:
        calibrators = Numbers(handle).load()["calibrators"]

    def chance(score, value):
        parts = calibrators[score].values() if isinstance(calibrators[score], dict) else [calibrators[score]]
        return 1 - np.prod([1 - np.interp(value, c.X_thresholds_, c.y_thresholds_) for c in parts])

    for score, limits in judges.TAP_FLAGS.items():
        for limit, outside in zip(limits, (-1, 1), strict=True):
            if limit is not None:
                assert chance(score, limit + outside * 0.5) > 0.5 >= chance(score, limit - outside * 0.5), score
                assert judges.flagged(score, limit + outside * 0.5)
                assert not judges.flagged(score, limit - outside * 0.5)
