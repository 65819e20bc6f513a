"""The report's tab on steering: does a latent control what the model writes?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import logos
from antibody_sae.report.charts import steering as figures
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.charts.logos import Logo
from antibody_sae.report.findings import joined
from antibody_sae.report.page import Pick, Section, Table, columns
from antibody_sae.report.run import CHAINS, CONTROLS, Run, grouped, kind_label, rows, slug
from antibody_sae.steering.criteria import CRITERIA

TITLE = "Steering"

LENGTH = "length of the added vector, rms lengths"
"""In units of the root mean square length of the layer's centred activations."""
MOST_MOVED = 30
"""Concepts on the chart of side effects."""


def sections(run: Run, palette: Palette) -> list[Section]:
    """The tab's sections; those without pictures and tables are left out."""
    steered = arms(run)
    if not len(steered):
        return [Section("No latent was steered in this run")]
    layers = [str(layer) for layer in run.config["activations"]["layers"]]
    layer = [Pick("layer", "Layer", [(value, value) for value in layers])] if len(layers) > 1 else []
    targets = list(dict.fromkeys(steered["concept"]))
    both = [Pick("target", "Target", [(target, concept_label(target)) for target in targets]), *layer]
    said = ""
    if run.apart:
        said = "The model writes one chain of a pair at a time: "
        said += "; ".join(
            f"{', '.join(map(concept_label, own['concept'].unique()))} in {CHAINS[chains]}"
            for chains, own in grouped(steered[steered["stage"] == "confirm"], "chains")
        )
        said += ". Each target is compared with no steering and random arms of its own chain."
    parts = [
        Section("Steering by target", said, figures=[*effects(run, palette), *_steerable(run, palette)], picks=layer),
        Section(
            "Which way of choosing finds a latent that steers",
            "Every criterion had the same number of tries. Grey: the range over random latents; open diamond: "
            "difference of means.",
            figures=_criteria(run, palette),
            picks=both,
        ),
        Section(
            "Dose-response",
            "Share of written, numberable sequences with the concept, against the length of the added vector in root "
            "mean square lengths of the activations. Labels: latent and why it was chosen. Grey: random latents and "
            "directions; dark dashed lines: directions that need labels or gradients but no SAE; hollow: quality too "
            "low (under 95% numberable, or perplexity above the bound).",
            figures=_dose(steered, palette),
            picks=both,
        ),
        Section(
            "Association against effect",
            "One mark a steered latent and target, at equal length of the added vector: what is known of a latent "
            "before anything is written, and what it does.",
            figures=_mapping(steered, palette),
            picks=layer,
        ),
        Section("Off-target effects", figures=_side_effects(run), picks=layer),
        Section("Quality of what was written", figures=_quality(run, steered, palette), picks=layer),
        Section(
            "What is written, residue by residue",
            "CDR3 and FR4 of the sequences written under each SAE's latent with the best F1, beside no steering. "
            "Letter height in bits.",
            figures=list(_logos(run)),
            picks=both,
        ),
        Section("Tables", tables=_tables(run)),
    ]
    return [part for part in parts if part.figures or part.tables]


def arms(run: Run) -> pd.DataFrame:
    """Steering arms by target, explored and confirmed, with arm_label: the latent and why it was chosen."""
    table = run.effects
    if not len(table):
        return table
    return table.assign(arm_label=[_arm_label(run, row) for row in rows(table)])


def _arm_label(run: Run, arm: Any) -> str:
    if arm.kind != "latent":
        return kind_label(arm.kind)
    chosen = arm.selected_by.split(";") if isinstance(arm.selected_by, str) else []
    why = f" ({', '.join(CRITERIA[c].short for c in chosen)})" if chosen else ""
    return f"{int(arm.latent)}{f' seed {arm.seed}' * run.many_seeds}{why}"


def effects(run: Run, palette: Palette) -> list[Figure | Logo]:
    """Change of each target by the latent with the best F1, by SAE; one picture a layer."""
    about = (
        "By the latent with the best F1, at the length that exploration chose, on fresh sequences (95% interval); "
        "grey: the range over random latents of that length; open diamond: difference of means."
    )
    if run.many_seeds:
        about += " A lane each seed."
    pictures: list[Figure | Logo] = []
    table = run.best_f1
    for layer, own in grouped(table[table["delta"].notna()] if len(table) else table, "layer"):
        data = _dots(run, own.assign(label=own["concept"].map(concept_label)), layer)
        chart = figures.effect_dots(data, palette, "label", "change of the concept's share")
        pick = {"layer": str(layer)}
        pictures.append(
            Figure(f"effects-layer{layer}", "Change by the latent with the best F1", about, chart, data, pick)
        )
    return pictures


def _dots(run: Run, table: pd.DataFrame, layer: int) -> pd.DataFrame:
    """What effect_dots draws: the rows' changes beside the difference of means of the layer."""
    means = run.criteria[(run.criteria["kind"] == "difference_of_means") & (run.criteria["layer"] == layer)]
    direction = means.groupby("concept")["delta"].max()
    kept = [
        "sae",
        "seed",
        "concept",
        "latent",
        "strength",
        "delta",
        "delta_low",
        "delta_high",
        "random_low",
        "random_high",
    ]
    data = table[[c for c in ("label", "criterion") if c in table] + kept]
    data = data.rename(columns={"delta_low": "low", "delta_high": "high"})
    return data.assign(direction=data["concept"].map(direction))


def _by_criterion(run: Run) -> pd.DataFrame:
    """Effects of latents chosen by a criterion, `criterion` in words and in the order of CRITERIA."""
    names = {name: criterion.title for name, criterion in CRITERIA.items()}
    table = run.criteria[run.criteria["selected_by"].isin(names) & (run.criteria["length"] > 0)]
    order = {name: i for i, name in enumerate(names.values())}
    table = table.assign(criterion=table["selected_by"].map(names))
    return table.sort_values("criterion", key=lambda column: column.map(order), kind="stable")


def _steerable(run: Run, palette: Palette) -> list[Figure | Logo]:
    about = (
        "Share of targets (and seeds) for which the criterion's latent is steerable: beyond random latents of its "
        "length (q < 0.05), of acceptable quality, the interval of its log odds ratio above 0. Wilson 95% intervals."
    )
    pictures: list[Figure | Logo] = []
    for layer, own in grouped(_by_criterion(run), "layer"):
        counts = own.groupby(["criterion", "sae"], sort=False)["steerable"]
        data = counts.agg(steerable="sum", n="size").reset_index()
        chart = figures.shares(data, palette, list(dict.fromkeys(data["criterion"])))
        pick = {"layer": str(layer)}
        pictures.append(Figure(f"steerable-layer{layer}", "Steerable targets by criterion", about, chart, data, pick))
    return pictures


def _criteria(run: Run, palette: Palette) -> list[Figure | Logo]:
    about = (
        "The latent that the criterion chose, at the length that exploration chose, on fresh sequences; 95% interval."
    )
    table = _by_criterion(run)
    pictures: list[Figure | Logo] = []
    for (layer, concept), own in grouped(table[table["delta"].notna()], ["layer", "concept"]):
        data, name = _dots(run, own, layer), concept_label(concept)
        chart = figures.effect_dots(data, palette, "criterion", f"change of the share with {name}")
        pick = {"layer": str(layer), "target": concept}
        stem = f"criteria-{slug(concept)}-layer{layer}"
        pictures.append(Figure(stem, f"{name}: change by criterion", about, chart, data, pick))
    return pictures


def _dose(steered: pd.DataFrame, palette: Palette) -> list[Figure | Logo]:
    kept = [
        "arm_label",
        "kind",
        "latent",
        "selected_by",
        "stage",
        "strength",
        "length",
        "rate",
        "rate_low",
        "rate_high",
    ]
    kept += ["valid", "acceptable", "perplexity", "n", "q_value"]
    kinds = ["latent", "random_latent", "random_direction", *figures.DASHES]
    drawn = steered[steered["kind"].isin(kinds) & steered["length"].notna() & steered["rate"].notna()]
    pictures: list[Figure | Logo] = []
    for (layer, concept), target in grouped(drawn, ["layer", "concept"]):
        top = min(1.0, 1.08 * float(target["rate_high"].max()))
        baseline, name = float(target["baseline_rate"].iloc[0]), concept_label(concept)
        about = f"No steering: {baseline:.1%} (dotted line). Wilson 95% intervals."
        for sae, own in grouped(target, "sae"):
            data = own[kept]
            chart = figures.dose_response(data, baseline, palette.of(sae), top, LENGTH, name)
            stem = f"dose-{slug(concept)}-{slug(sae)}-layer{layer}"
            pick = {"layer": str(layer), "target": concept}
            pictures.append(Figure(stem, f"{sae}: {name}", about, chart, data, pick))
    return pictures


def _mapping(steered: pd.DataFrame, palette: Palette) -> list[Figure | Logo]:
    known = {
        "f1": ("F1", "F1 with the target, test antibodies"),
        "r": ("|r|", "|r| with the target, test antibodies"),
        "rate_derivative": ("Rate derivative", "derivative of the target's rate along the latent"),
    }
    kept = ["sae", "seed", "concept", "latent", "kind", "selected_by", *known, "delta", "delta_low", "delta_high"]
    table = steered[steered["kind"].isin(["latent", "random_latent"]) & (steered["stage"] == "confirm")]
    pictures: list[Figure | Logo] = []
    for layer, own in grouped(table[table["f1"].notna()], "layer"):
        shared = own[own["kind"] == "latent"].groupby(["sae", "seed", "concept"])["length"].max().rename("at")
        own = own.merge(shared, on=["sae", "seed", "concept"])  # the length that a target's latents were pushed by
        own = own[np.isclose(own["length"], own["at"])]
        data = own.drop_duplicates(["sae", "seed", "concept", "latent"])[kept]
        data = data.rename(columns={"delta_low": "low", "delta_high": "high"})
        data = data.assign(r=data["r"].abs(), label=data["concept"].map(concept_label))
        for x, (name, axis) in known.items():
            chart = figures.mapping_scatter(data, palette, x, axis)
            about = "All steered latents, random ones faint; 95% intervals."
            pick = {"layer": str(layer)}
            pictures.append(Figure(f"mapping-{x}-layer{layer}", f"{name} against effect", about, chart, data, pick))
    return pictures


def _best_f1_arms(run: Run) -> pd.DataFrame:
    """The arm (its number in the confirmed outcomes.parquet) behind each row of `Run.best_f1`."""
    table = run.effects
    if not len(table):
        return table
    mine = (table["kind"] == "latent") & (table["stage"] == "confirm") & (table["length"] > 0)
    by_f1 = table["selected_by"].fillna("").str.split(";").map(lambda why: "f1" in why)
    return table[mine & by_f1].astype({"latent": "int64"}).drop_duplicates(["layer", "sae", "seed", "concept"])


def _side_effects(run: Run) -> list[Figure | Logo]:
    side = run.of_saes("steering/{}/side_effects.parquet", ["arm", "concept", "delta", "q_value"])
    best = _best_f1_arms(run)
    if not len(side) or not len(best):
        return []
    keys = ["layer", "sae", "seed", "arm"]
    chosen = best[[*keys, "concept", "latent"]].rename(columns={"concept": "target"})
    merged = side.merge(chosen, on=keys)
    merged["row"] = [
        f"{row.sae}{f' seed {row.seed}' * run.many_seeds} {row.latent} → {concept_label(row.target)}"
        for row in rows(merged)
    ]
    about = f"Change of every concept's share (the {MOST_MOVED} that moved most), by SAE and latent → target."
    pictures: list[Figure | Logo] = []
    for layer, own in grouped(merged, "layer"):
        largest = own.groupby("concept")["delta"].agg(lambda d: d.abs().max()).sort_values(ascending=False)
        own = own[own["concept"].isin(largest.index[:MOST_MOVED])].sort_values("concept", kind="stable")
        data = own.assign(arm=own["row"], label=own["concept"].map(concept_label)).sort_values("arm", kind="stable")
        data = data[["arm", "target", "concept", "label", "delta", "q_value"]]
        chart = figures.side_effects(data)
        pick = {"layer": str(layer)}
        name = "Side effects of the latents with the best F1"
        pictures.append(Figure(f"side-effects-layer{layer}", name, about, chart, data, pick))
    return pictures


def _quality(run: Run, steered: pd.DataFrame, palette: Palette) -> list[Figure | Logo]:
    table = steered[(steered["kind"] == "latent") & (steered["stage"] == "confirm")]
    table = table.drop_duplicates(["layer", "sae", "seed", "arm"])
    bound = run.config["steering"]["perplexity_bound"]
    pictures: list[Figure | Logo] = []
    for (layer, chains), own in grouped(table, ["layer", "chains"]):
        none = steered[(steered["kind"] == "none") & (steered["layer"] == layer) & (steered["chains"] == chains)].iloc[
            0
        ]
        of, stem = (f", {CHAINS[chains]}", f"-{chains}") if run.apart else ("", "")
        own = own.assign(name=own["latent"].astype(int).astype(str) + " seed " + own["seed"].astype(str))
        for y, name, axis, fmt, line, about in (
            ("valid", "Numberable", "share that could be numbered", ".0%", 0.95,
             "Dashed: the 95% that a steerable arm must keep."),
            ("perplexity", "Perplexity", "perplexity, unsteered model", ".3~g", bound * none["perplexity"],
             f"Dashed: the bound, {bound:g} times that of unsteered sequences ({none['perplexity']:.2f})."),
            ("unique", "Distinct", "share of distinct sequences", ".0%", None,
             "Copies would make a rate look certain."),
            ("edit_distance", "Novel", "edits to nearest training sequence", ".3~g", none["edit_distance"],
             "Dashed: unsteered sequences. A model that recites its training data would fall to 0."),
        ):  # fmt: skip
            data = own[["sae", "seed", "latent", "name", "strength", "length", y]].dropna(subset=[y])
            if len(data):
                chart = figures.quality(data, palette, y, axis, fmt, line, LENGTH)
                pick = {"layer": str(layer)}
                pictures.append(Figure(f"quality-{y}{stem}-layer{layer}", f"{name}{of}", about, chart, data, pick))
    return pictures


def _logos(run: Run) -> Iterator[Logo]:
    needed = ["arm", "valid", "cdr3", "fr4"]
    for layer, own in grouped(_best_f1_arms(run), "layer"):
        plan = run.table(f"steering/layer{layer}/controls/explore/plan.parquet", ["arm", "kind", "chains"])
        control = run.table(f"steering/layer{layer}/controls/explore/outcomes.parquet", needed)
        if not len(control) or not len(plan):
            continue
        for chains, arms in grouped(plan[plan["kind"] == "none"], "chains"):
            of, stem = (f", {CHAINS[chains]}", f"-{chains}") if run.apart else ("", "")
            none = control[control["arm"].isin(arms["arm"])]
            yield _logo(none, f"logo-none{stem}-layer{layer}", f"No steering{of}", {"layer": str(layer)}, chains)
        for sae in (s for s in run.saes if s.layer == layer):
            written = run.table(f"steering/{sae.folder}/confirm/outcomes.parquet", needed)
            for arm in rows(own[(own["sae"] == sae.title) & (own["seed"] == sae.seed)]):
                name = f"{run.title(sae)} latent {arm.latent}, pushed toward {concept_label(arm.concept)}"
                pick = {"layer": str(layer), "target": arm.concept}
                mine = written[written["arm"] == arm.arm]
                yield _logo(mine, f"logo-{slug(arm.concept)}-{sae.key}", name, pick, arm.chains)


def _logo(written: pd.DataFrame, name: str, about: str, pick: dict[str, str], chains: str) -> Logo:
    whole = written[written["valid"]]
    counts = logos.counted(whole["cdr3"], whole["fr4"])
    cdr3 = "CDR-L3" if chains == "L" else "CDR-H3"
    caption = f"IMGT 105-111 from the start of {cdr3}, 112-117 from its end, and FR4; {len(whole):,} sequences."
    return Logo(name, about, caption, logos.logo(counts, name), counts.rename_axis("imgt").reset_index(), pick)


def _tables(run: Run) -> list[Table]:
    def readable(table: pd.DataFrame) -> pd.DataFrame:
        yes = table["steerable"].map({True: "yes", False: "no"})
        return table.assign(label=table["concept"].map(concept_label), steerable=yes)

    which = ("sae|SAE", "layer|layer|d", "seed|seed|d", "label|target")
    mapping, criteria = run.csv("mapping_vs_steering"), run.criteria
    tables = []
    if len(mapping):
        shown = columns(
            *which, "baseline_rate|no steering|.1%", "best_f1|best F1|.2f", "best_f1_latent|its latent|.0f",
            "best_f1_delta|its change|+.1%", "best_r|best r|.2f", "best_r_latent|its latent|.0f",
            "best_r_delta|its change|+.1%", "best_f1_delta_low|best F1's from|+.1%", "best_f1_delta_high|to|+.1%",
            "steerable|best F1 steers", "steerable_by|steered by",
            "random_low|random latents from|+.1%", "random_high|to|+.1%",
            *(f"{kind}_delta|{name}|+.1%" for kind, name in CONTROLS.items() if f"{kind}_delta" in mapping),
        )  # fmt: skip
        mapping = mapping.assign(steerable=mapping.get("best_f1_steerable"))
        tables.append(
            Table("Mapping against steering", shown, readable(mapping), csv="../tables/mapping_vs_steering.csv")
        )
    if len(criteria):
        names = {name: criterion.title for name, criterion in CRITERIA.items()}
        shown = columns(
            *which, "why|chosen by", "latent|latent|.0f", "f1|F1|.2f", "r|r|.2f",
            "strength|strength|.2g|multiples of the latent's largest activation", "length|length|.2g|rms lengths",
            "delta|change|+.1%", "delta_low|from|+.1%", "delta_high|to|+.1%", "log_odds|log odds ratio|+.2f",
            "effect_sd|in sd of random arms|+.1f", "detectable|change found with 80% power|+.1%", "q_value|q|.2g",
            "off_target|moved elsewhere|.1%|root mean square change of concepts that other residues decide",
            "random_off_target|random arms, elsewhere|.1%|the same of random arms of this length",
            "consistency|consistency|.2f|share of its effects, over contexts, that one direction explains",
            "valid|numberable|.1%", "perplexity|perplexity|.2f", "steerable|steerable",
        )  # fmt: skip
        why = criteria["selected_by"].map(names).fillna(criteria["kind"].map(kind_label))
        table = readable(criteria).assign(why=why)
        tables.append(
            Table("Every criterion and control", shown, table, csv="../tables/steering_by_criterion.csv", folded=True)
        )
    return tables + _evidence(run)


def _evidence(run: Run) -> list[Table]:
    """Latents followed across seeds, and ablation, where the run has them."""
    titles = {name: criterion.title for name, criterion in CRITERIA.items()}
    tables = []
    followed, ablated = run.csv("latents_across_seeds"), run.csv("ablation")
    if len(followed):
        shown = columns(
            "sae|SAE", "layer|layer|d", "label|target", "why|chosen by", "seed|seed|d", "latent|latent|d",
            "other_seed|other seed|d", "match|its counterpart|d", "cosine|cosine|.2f", "same|chosen there too",
            "cosine_like|cosine, control|.2f|of a latent of like density", "log_odds|log odds ratio|+.2f",
            "other_log_odds|of the other seed's choice|+.2f",
        )  # fmt: skip
        said = {"label": followed["concept"].map(concept_label), "why": followed["selected_by"].map(titles)}
        said["same"] = followed["same"].map({True: "yes", False: "no"})
        file = "../tables/latents_across_seeds.csv"
        tables.append(Table("Chosen latents in other seeds", shown, followed.assign(**said), csv=file, folded=True))
    if len(ablated):
        shown = columns(
            "sae|SAE", "layer|layer|d", "seed|seed|d", "label|target", "why|held at 0", "latent|latent|.0f",
            "deciding|deciding residues, nats|+.2f|change of their log-probability", "deciding_low|from|+.2f",
            "deciding_high|to|+.2f", "elsewhere|other residues|+.2f", "rate|target's share|.1%",
            "log_odds|log odds ratio|+.2f", "log_odds_low|from|+.2f", "log_odds_high|to|+.2f",
        )  # fmt: skip
        why = ablated["selected_by"].str.split(";").map(lambda names: joined([titles[n] for n in names]), "ignore")
        said = {"label": ablated["concept"].map(concept_label), "why": why.fillna(ablated["kind"].map(kind_label))}
        file = "../tables/ablation.csv"
        tables.append(Table("Ablation of each target's latents", shown, ablated.assign(**said), csv=file, folded=True))
    return tables
