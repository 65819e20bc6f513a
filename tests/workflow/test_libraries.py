"""Libraries built by Snakemake from a finished run, as a lab would take them."""

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.slow
SMALL = {"n": 12, "baseline": 48, "pick": 4}


def test_libraries_come_out_whole_with_names_of_their_own(quick_run):
    project = quick_run[0]
    config = yaml.safe_load((project.folder / "tests" / "config" / "quick.yaml").read_text())
    config["designs"] = {
        "by_hand": {"latents": {"29": 1.0}, "sae": "ordered", **SMALL},
        "by_lever": {"concepts": {"j-gene=IGHJ4": "high", "motif=N-glycosylation": "none"}, **SMALL},
    }
    (project.folder / "designs.yaml").write_text(yaml.safe_dump(config))
    done = project.snakemake("designs", config="designs.yaml")
    assert done.returncode == 0, done.stdout[-5000:]
    names = []
    for library in config["designs"]:
        folder = project.folder / "results" / "quick" / "designs"
        fasta = (folder / f"{library}.fasta").read_text().splitlines()
        names += [line for line in fasta if line.startswith(">")]
        table = pd.read_csv(folder / f"{library}.tsv", sep="\t")
        assert len(table) == SMALL["n"]
        assert table["sequence_aa"].is_unique
        assert table["fwr1_aa"].str.len().ge(24).all(), "no framework 1 is missing"
        assert table["fwr1_aa"].str.contains("C").all()
        assert (folder / f"{library}-picked.csv").read_text().startswith("plate,well,name,heavy")
        assert (folder / f"{library}.json").is_file()
    assert len(set(names)) == len(names) == 2 * SMALL["n"]
    steered = pd.read_csv(folder / "by_lever.tsv", sep="\t")
    assert steered["j_call"].str.startswith("IGHJ4").all()
    assert steered["liability_n_glycosylation"].isna().all()
