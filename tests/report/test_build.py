"""The page holds what the tables say, whole and safe; every picture and table that it links to is there."""

import base64
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
import synthetic_run
from antibody_sae import config as settings
from antibody_sae.report import build as report
from antibody_sae.report import page
from antibody_sae.report import summary as tables_summary
from antibody_sae.report.charts import base as figures_base
from antibody_sae.report.charts import logos
from antibody_sae.report.charts import steering as figures_steering
from antibody_sae.report.tabs import latents


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A run with its report, pictures and all."""
    run = synthetic_run.make(tmp_path_factory.mktemp("run"), synthetic_run.configuration())
    summary = tables_summary.summary(run)
    pd.DataFrame(summary["saes"]).to_csv(run.folder / "tables" / "saes.csv", index=False)
    report.build(run, summary, run.folder / "report" / "index.html", run.folder / "report" / "figures")
    return run, (run.folder / "report" / "index.html").read_text(encoding="utf-8")


def unpack(html: str, name: str):
    """A block of the page."""
    text = re.search(rf'<script type="text/plain" id="{re.escape(name)}">([^<]*)</script>', html)
    assert text, f"no block {name}"
    return json.loads(gzip.decompress(base64.b64decode(text[1])))


def test_text_from_data_stays_text(built):
    _, html = built
    assert synthetic_run.HOSTILE not in html
    assert "&lt;script&gt;document.title=" in html, "the concept's name is on the page, escaped"
    records = unpack(html, "latents-layer2-topk-seed0-0")
    assert records[1]["top"][0]["id"] == synthetic_run.HOSTILE, (
        "the id is in a block, which the page shows as textContent"
    )
    script = (page.TEMPLATES / "report.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write|eval\(|fetch\(", script)
    settings = re.search(r'<script type="application/json" id="page">(.*?)</script>', html, re.DOTALL)
    assert json.loads(settings[1])["chunk"] == page.CHUNK


def test_nothing_comes_from_a_network(built):
    _, html = built
    assert "default-src 'none'" in html
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_every_link_to_a_file_is_good(built):
    run, html = built
    links = set(re.findall(r'href="((?:figures|\.\./tables)/[^"]+\.\w+)"', html))
    assert len(links) > 60
    missing = [link for link in links if not (run.folder / "report" / link).is_file()]
    assert not missing
    for png in (run.folder / "report" / "figures").glob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert "<svg" in png.with_suffix(".svg").read_text()[:300]
    kinds = {
        "claim",
        "levers",
        "fvu",
        "dead",
        "prefix",
        "best",
        "heatmap",
        "sparse",
        "complexity",
        "effects",
        "criteria",
        "dose",
        "mapping",
        "quality",
        "logo",
    }
    assert kinds <= {link.split("/")[1].split("-")[0].split(".")[0] for link in links if link.startswith("figures")}


def test_charts_hold_the_numbers_of_the_tables(built):
    run, html = built
    history = pd.read_parquet(run.folder / "saes/layer2/topk-seed0/history.parquet")
    spec = json.dumps(unpack(html, "charts-training")["fvu-layer2"])
    assert f'"fvu": {float(f"{history.fvu.iloc[7]:.5g}")}' in spec
    effects = pd.read_csv(run.folder / "report/figures/effects-layer2.csv").set_index(["sae", "concept"])
    criteria = pd.read_csv(run.folder / "tables/steering_by_criterion.csv")
    best = criteria[(criteria.selected_by == "f1") & (criteria.sae == "ordered")].set_index("concept")
    for target in synthetic_run.TARGETS:
        assert effects.loc[("Ordered", target), "delta"] == pytest.approx(best.loc[target, "delta"], rel=1e-4)


def test_the_overview_says_it_at_a_glance(built):
    _, html = built
    top = html[html.index("<h1>What was found</h1>") : html.index('<dl class="tiles">')]
    assert "One seed: not a test of the claims." in top
    cards = re.findall(r"<li>(.*?)</li>", top, re.DOTALL)
    names = ["claim-match", "claim-control", "claim-reliability", "claim-complexity", "claim-halves"]
    assert [re.findall(r'data-name="([^"]+)"', card) for card in cards] == [[name] for name in names]
    for card in cards:
        assert card.count('class="verdict ') == 1
        assert "<summary>How it is decided</summary>" in card
    control = pd.DataFrame(_values(unpack(html, "charts-overview")["claim-control"], "who"))
    assert set(control["who"]) == {"latent with the best F1", "trained vector"}


def _values(spec, key):
    """The rows of a specification's dataset that has `key`."""
    (rows,) = [rows for rows in spec["datasets"].values() if key in rows[0]]
    return rows


def test_the_data_table_says_what_is_whole(built):
    _, html = built
    rows = dict(re.findall(r'<th scope="row">([^<]+)</th><td class="num" data-sort="(\d+)', html))
    assert rows["complete domains (IMGT 1 or 2 to 127 or 128)"] == "32"
    assert rows["conserved cysteines at 23 and 104"] == "39"
    assert rows["V germline identity below 75%"] == "2"
    assert rows["refused: stop codon"] == "2"
    assert "80.0% of chains with a domain" in html
    assert "run in float32" in html
    assert re.search(r"written on a processor with (AVX|NEON|DEFAULT|\w)", html)


def test_every_latent_is_there_with_its_antibodies(built):
    run, html = built
    settings = json.loads(re.search(r'id="page">(.*?)</script>', html, re.DOTALL)[1])
    assert [sae["key"] for sae in settings["saes"]] == ["layer2-topk-seed0", "layer2-ordered-seed0"]
    index = unpack(html, "index-layer2-ordered-seed0")
    assert {len(index[k]) for k in ("f1", "density", "concept", "concepts", "interpretable", "effect")} == {64}
    assert [i for i, effect in enumerate(index["effect"]) if effect is not None] == [3, 9, 14]
    record = unpack(html, "latents-layer2-ordered-seed0-0")[9]
    residues = pd.read_parquet(run.folder / "numbering/residues.parquet")
    for example in record["top"]:
        own = residues[residues.antibody_id == example["id"]]
        assert "".join(text for _, text in example["chains"][0]) == "".join(own.residue)
        assert [region for region, _ in example["chains"][0]] == list(synthetic_run.REGIONS)
        assert dict(zip(example["at"], example["steps"], strict=True)) == {0: 25, 100: 99, 115: 12}
    assert len(record["top"]) == run.config["report"]["examples"]
    assert record["near"][0][0] == "layer2-topk-seed0"
    assert {arm["concept"] for arm in record["dose"]} == {"IGHJ4", "IGHV4"}
    assert any(arm["length"] == 0 for arm in record["dose"]), "the curve starts at no steering"


def test_nearest_latents_are_the_nearest(built):
    run, _ = built
    near = latents.nearest(run, run.saes[0])
    own, other = (latents.decoder(run, sae) for sae in run.saes)
    cosine = own @ other.T
    assert [row[0][1] for row in near] == cosine.argmax(1).tolist()
    assert near[5][0][2] == pytest.approx(cosine[5].max(), abs=1e-3)


@pytest.mark.parametrize(
    ("sections", "steered"),
    [
        ({"saes": {"train": {"topk": {"architecture": "topk"}}}}, False),
        pytest.param(
            {
                "activations": {"layers": [1, 2]},
                "saes": {"seeds": [0, 1], "train": {n: {"architecture": n} for n in ("topk", "ordered", "matryoshka")}},
            },
            True,
            marks=pytest.mark.slow,  # twelve SAEs
        ),
        (
            {
                "activations": {"layers": [1, 2, 3]},
                "saes": {
                    "seeds": [0, 1],
                    "train": {
                        "topk": {"architecture": "topk", "layers": [1, 2]},
                        "narrow": {"architecture": "topk", "latents": 32, "layers": [2]},
                        "topk_untrained": {"architecture": "topk", "tokens": 0, "layers": [3]},
                    },
                },
            },
            True,
        ),
        (
            {
                "saes": {
                    "seeds": [0, 1],
                    "train": {
                        "topk": {"architecture": "topk"},
                        "ordered": {"architecture": "ordered", "seeds": [0]},
                        "topk_untrained": {"architecture": "topk", "tokens": 0},
                        "topk_random_model": {"architecture": "topk", "random_model": True},
                    },
                }
            },
            True,
        ),
    ],
    ids=[
        "one SAE, no steering",
        "two layers, two seeds, three types",
        "a layer and a width of one SAE alone, a layer without steering",
        "controls, one seed of Ordered",
    ],
)
def test_other_shapes_of_run(tmp_path, monkeypatch, sections, steered):
    monkeypatch.setattr(report, "_write", lambda figure, folder: None)  # the pictures' files are tested above
    run = synthetic_run.make(tmp_path, synthetic_run.configuration(**sections), steered=steered)
    report.build(run, tables_summary.summary(run), tmp_path / "index.html", tmp_path / "figures")
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    layers = run.config["activations"]["layers"]
    assert ('data-pick="layer"' in html) == (len(layers) > 1)
    assert ("No latent was steered in this run" in html) == (not steered)
    for sae in run.saes:
        assert len(unpack(html, f"index-{sae.key}")["f1"]) == run.settings[sae.name]["latents"]
    if steered:
        assert f"stability-layer{layers[0]}" in unpack(html, "charts-training")
        last = [name for name in run.settings if not settings.control_of(run.settings[name])][-1]
        assert f"dose-j-gene-ighj4-{last}-layer2" in unpack(html, "charts-steering")
        for title in ("Chosen latents in other seeds", "Ablation of each target's latents"):
            assert title in html.replace("&#39;", "'")


def test_table_cells():
    table = page.Table(
        "t",
        page.columns("a|A", "b|B|.2f"),
        pd.DataFrame({"a": ["x<y", None], "b": [np.nan, 1.239], "b_note": [None, "n"]}),
    )
    first, second = table.cells
    assert (first[0]["text"], first[1]["text"], first[1]["sort"]) == ("x<y", "–", None)
    assert (second[0]["text"], second[1]["text"], second[1]["sort"], second[1]["note"]) == ("–", "1.24", 1.239, "n")


def test_packing_round_trips_and_repeats():
    value = {"a": [1, None, "</script>"]}
    assert page.pack(value) == page.pack(value)
    assert json.loads(gzip.decompress(base64.b64decode(page.pack(value)))) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        page.pack({"a": float("nan")})


def test_logo_counts_follow_imgt():
    counts = logos.counted(["ARDY", "ARAAAAAGGGGGGGDY", None], ["WGQGTLVTVSS", "WGQGTLVTVSSXX", "WGQG"])
    assert counts.sum(axis=1).to_dict() == {str(p): (1 if 107 <= p <= 115 else 2) for p in range(105, 129)}
    assert counts.loc["106", "R"] == 2
    assert counts.loc["117", "Y"] == 2
    assert counts.loc["116", "D"] == 2
    assert counts.loc["112", "G"] == 1


def test_logo_heights_are_bits():
    sure, even = pd.Series(0.0, index=list(logos.RESIDUES)), pd.Series(1.0, index=list(logos.RESIDUES))
    sure["W"] = 7
    svg = logos.logo(pd.DataFrame([sure, even], index=["118", "119"]), "x")
    uses = re.findall(r'<use href="#x-(\w)"[^>]*matrix\(\S+ 0 0 (\S+) ', svg)
    assert uses == [("W", f"{logos.BITS * np.log2(20) / 100:.4f}")], (
        "a conserved residue has log2(20) bits, an even position none"
    )


def test_labels_do_not_lie_on_each_other():
    rng = np.random.default_rng(0)
    for n in range(1, 12):
        values = pd.Series(rng.uniform(0, 1, n))
        placed = pd.Series(figures_steering.spaced(values, 0.06, 1.0))
        assert (placed.sort_values().diff().dropna() >= 0.06 - 1e-9).all()
        assert placed.max() <= max(1.0, values.max()) + 1e-9
        assert (placed.rank() == values.rank()).all()
    assert figures_steering.spaced(pd.Series([0.5, 0.5]), 0.1, 1.0) == pytest.approx([0.45, 0.55]), (
        "each gives way by half"
    )


def test_dark_page_swaps_every_colour_of_the_light_one(built):
    _, html = built
    swap = {colour.lower() for colour in figures_base.DARK}
    used = set()
    for tab in ("overview", "training", "dictionaries", "concepts", "steering", "levers"):
        used |= set(re.findall(r'"(#[0-9A-Fa-f]{6})"', json.dumps(unpack(html, f"charts-{tab}"))))
    assert used
    assert {colour.lower() for colour in used} <= swap
    assert {colour.lower() for colour in figures_base.SAE_COLOURS} <= swap
