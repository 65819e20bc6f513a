"""What is written is held against the input: differences that are there are found, relatives count once."""

import numpy as np
import pandas as pd
import pytest
from antibody_sae.io import InputError
from antibody_sae.report import nature
from antibody_sae.report.charts.base import Palette
from antibody_sae.report.tabs import nature as tab

BACKBONE = "EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYYADSVKGRFTISRDNSKNTLYLQMNSLRAEDTAVYYC"


def chains(n, rng, family="IGHV3", long=0.0, per_cluster=1):
    """Complete heavy chains of `n` clusters; `long` is how much longer their CDR3 is."""
    rows = []
    for cluster in range(n):
        cdr3 = "AR" + "".join(rng.choice(list("DGSWK"), 8 + rng.poisson(4 + long))) + "DY"
        j = rng.choice(["IGHJ4", "IGHJ6"])
        domain = f"{BACKBONE}{cdr3}WGQGTLVTVSS"
        rows += [(f"{family}-1", j, cdr3, domain, "H:>=0.95", cluster)] * per_cluster
    return pd.DataFrame(rows, columns=nature.COUNTED)


def row(table, measure, value):
    (found,) = table[(table["measure"] == measure) & (table["value"] == value)].itertuples()
    return found


def test_a_difference_that_is_there_is_found_and_no_other():
    rng = np.random.default_rng(0)
    table = nature.compared(chains(400, rng), chains(300, rng, long=3))
    length = row(table, "CDR3 length", "mean")
    assert length.low < 3 < length.high
    assert length.q_value < 1e-6
    assert length.written == pytest.approx(length.input + length.difference)
    assert row(table, "J gene", "IGHJ6").q_value > 0.05
    composition = table[table["measure"] == "CDR3 residue"]
    assert composition["input"].sum() == pytest.approx(1)
    assert table["difference"].between(table["low"], table["high"]).all()


def test_relatives_count_once():
    rng = np.random.default_rng(1)
    single = chains(60, rng)
    family = single.loc[single.index.repeat(20)].reset_index(drop=True)
    written = chains(200, rng)
    alone, together = (row(nature.compared(one, written), "J gene", "IGHJ6") for one in (single, family))
    assert together.n_input == 20 * alone.n_input
    assert together.clusters == alone.clusters == 60
    assert together.input_high - together.input_low == pytest.approx(alone.input_high - alone.input_low, rel=0.03)


def test_liabilities_are_those_of_the_domain():
    rng = np.random.default_rng(2)
    plain, marked = chains(50, rng), chains(50, rng)
    marked["cdr3"] = "ARNGTDY"
    marked["domain"] = BACKBONE + marked["cdr3"] + "WGQGTLVTVSS"
    table = nature.compared(plain, marked)
    found = row(table, "liability in CDR3", "N-glycosylation")
    assert (found.input, found.written) == (0, 1)
    assert found.low > 0.8
    assert row(table, "liability in the domain", "isomerisation").input > 0
    assert not (table["value"] == "free cysteine").any(), "both cysteines have a partner: neither side has a free one"


def test_only_complete_domains_of_the_side_count():
    antibodies = pd.DataFrame({"antibody_id": list("abc"), "heavy": ["XX" + BACKBONE] * 3, "light": None})
    numbered = pd.DataFrame(
        {
            "antibody_id": list("abc"), "side": "heavy", "status": "ok", "complete": [True, True, False], "start": 2,
            "end": 2 + len(BACKBONE), "v_gene": "IGHV3-1", "j_gene": "IGHJ4", "cdr3": "AR", "v_identity": 0.97,
        }
    )  # fmt: skip
    splits = pd.DataFrame({"antibody_id": list("abc"), "cluster_id": [0, 1, 2]})
    found = nature.of_input(antibodies, numbered, splits, "heavy", [0.9, 0.95], ["H:>=0.95"])
    assert found["domain"].tolist() == [BACKBONE] * 2
    assert found["v_identity"].tolist() == ["H:>=0.95"] * 2
    unwatched = nature.of_input(antibodies, numbered, splits, "heavy", [0.9, 0.95], [])
    assert unwatched["v_identity"].isna().all(), "what written sequences were not looked at for is not compared"
    with pytest.raises(InputError, match="too few"):
        nature.of_input(antibodies, numbered, splits.assign(cluster_id=0), "heavy", [0.9], [])


def test_the_report_shows_the_clearest_differences():
    class Run:
        def csv(self, name):
            return {"natural_vs_written": table}[name]

    rng = np.random.default_rng(3)
    table = pd.concat(
        [nature.compared(chains(300, rng), chains(300, rng, family=f"IGHV{v}")).assign(chains=side) for v, side in
         ((4, "heavy"), (3, "light"))], ignore_index=True,
    )  # fmt: skip
    (section,) = tab.sections(Run(), Palette([]))
    assert "300 heavy chains of the input in 300 clonotype clusters, 300 written" in section.text
    assert {f.pick["chains"] for f in section.figures} == {"heavy", "light"}
    first = section.tables[0].cells[0]
    assert [cell["text"] for cell in first[:4]] in (
        ["heavy", "V family IGHV3", "100.0%", "0.0%"],
        ["heavy", "V family IGHV4", "0.0%", "100.0%"],
    )


def test_bins_stand_in_the_order_of_their_numbers():
    keys = [("V identity", f"H:{name}") for name in ("<0.8", "0.8..0.85", "0.85..0.9", ">=0.95")]
    assert sorted(set(keys), key=nature._place) == keys
