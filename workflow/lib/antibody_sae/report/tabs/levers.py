"""The report's tab on levers: the best handle on each target, how few latents do it, the price, where control lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from antibody_sae.antibody import SIDED_REGIONS
from antibody_sae.concepts.catalogue import concept_label
from antibody_sae.report.charts import levers as charts
from antibody_sae.report.charts.base import Figure, Palette
from antibody_sae.report.page import Finding, Pick, Section, Table, columns
from antibody_sae.report.run import Run, grouped, kind_label, rows, slug
from antibody_sae.steering.arms import RANDOM, SPARSE
from antibody_sae.steering.price import price
from antibody_sae.steering.sparse import half_size

TITLE = "Levers"

NEAREST, TRAINED = "nearest to the trained vector", "trained in its coefficients"
"""How the latents of a lever of few were found."""
NOT_LEVERS = (*RANDOM, "none", "matched_latent", "shuffled_sign")
"""Kinds that nobody would use: controls."""
SURE = 2
"""Noises above which the map of control shows a derivative; what lies within them is 0."""
ARM = ["layer", "sae", "seed", "kind", "concept", "latent", "length"]
"""What names an arm in both stages."""


def sections(run: Run, palette: Palette) -> list[Section] | None:
    """The tab's sections; None where the run has neither a confirmed lever nor a map of control."""
    arms = _levers(run)
    best = best_handles(run, arms)
    layers = [str(layer) for layer in run.config["activations"]["layers"]]
    layer = [Pick("layer", "Layer", [(value, value) for value in layers])] if len(layers) > 1 else []
    target = Pick("target", "Target", [(target, concept_label(target)) for target in run.targets])
    parts = [
        _sizes(run, arms, palette, [target, *layer]),
        _best(best),
        _prices(best, run.csv("alternatives")),
        *_maps(run, target),
        _details(run),
    ]
    return [part for part in parts if part.figures or part.tables] or None


def _levers(run: Run) -> pd.DataFrame:
    """Every lever's arms that push up, explored and confirmed; a layer's own once, with `sae` empty."""
    table = run.effects
    if not len(table):
        return table
    table = table[~table["kind"].isin(NOT_LEVERS) & (table["length"] > 0)]
    own = table["owner"] == "sae"
    table = table.assign(
        sae=table["sae"].where(own, ""),
        seed=table["seed"].where(own, 0),
        latent=table["latent"].astype("Int64").fillna(-1),
        length=table["length"].round(6),
    )
    return table.drop_duplicates([*ARM, "stage"]).reset_index(drop=True)


def best_handles(run: Run, arms: pd.DataFrame) -> pd.DataFrame:
    """One confirmed arm a target: of those whose quality was good enough in exploration that whose log odds ratio had
    the highest lower bound there. Choosing by the confirming sequences would flatter it, and by the ratio itself the
    arm that was explored least. Adds lever, odds (ratio), tokens and tokens_none (`price`), and
    distinct: the share of the sequences with the target that are no copy of another."""
    if not len(arms):
        return arms
    explored = arms[arms["stage"] == "explore"][[*ARM, "log_odds_low"]].rename(columns={"log_odds_low": "explored"})
    table = arms[arms["stage"] == "confirm"].merge(explored, on=ARM, how="left")
    doses = [run.table(f"steering/layer{n}/doses.parquet").assign(layer=n) for n in table["layer"].unique()]
    if doses := [dose for dose in doses if "acceptable" in dose]:
        good = pd.concat(doses)[["layer", "concept", "kind", "length", "acceptable"]]
        good = good.assign(length=good["length"].round(6)).rename(columns={"acceptable": "good"})
        table = table.merge(good, on=["layer", "concept", "kind", "length"], how="left")
    else:
        table["good"] = True
    table["good"] = table["good"].astype("boolean").fillna(False).astype(bool)
    table = table.sort_values(["good", "explored"], ascending=False, kind="stable").drop_duplicates("concept")
    place = {target: i for i, target in enumerate(run.targets)}
    table = table.sort_values("concept", key=lambda c: c.map(place), kind="stable").reset_index(drop=True)
    paid = [_paid(run, row) for row in rows(table)]
    return table.assign(
        label=table["concept"].map(concept_label),
        lever=[_name(run, row) for row in rows(table)],
        odds=np.exp(table["log_odds"]),
        tokens=[steered[0] for steered, _ in paid],
        distinct=[steered[1] for steered, _ in paid],
        tokens_none=[none[0] for _, none in paid],
    )


def _name(run: Run, arm: Any) -> str:
    of = f" of {arm.sae}{f', seed {arm.seed}' * run.many_seeds}" if arm.sae else ""
    what = f"latent {arm.latent}" if arm.kind == "latent" else kind_label(arm.kind)
    return f"{what}{of}{f', layer {arm.layer}' * run.many_layers}"


def _paid(run: Run, arm: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    """`_tokens` under the arm, and without steering."""
    controls = f"steering/layer{arm.layer}/controls"
    sae = next((s for s in run.saes if (s.title, s.layer, s.seed) == (arm.sae, arm.layer, arm.seed)), None)
    steered = f"steering/{sae.folder}/confirm" if sae else f"{controls}/confirm"
    plan = run.table(f"{controls}/explore/plan.parquet")
    unsteered = (plan["kind"] == "none") & (plan["chains"] == arm.chains) if len(plan) else []
    none = plan.loc[unsteered, "arm"].iloc[0] if len(plan) else -1
    return _tokens(run, steered, arm.arm, arm.concept), _tokens(run, f"{controls}/explore", none, arm.concept)


def _tokens(run: Run, folder: str, arm: int, concept: str) -> tuple[float, float]:
    """(tokens written for each distinct complete sequence with the target, the share of such sequences that are
    distinct)."""
    written = run.table(f"{folder}/outcomes.parquet")
    if concept not in written:
        return float("nan"), float("nan")
    own = written[written["arm"] == arm]
    texts, accepted = own["heavy"].fillna("") + own["light"].fillna(""), own["valid"] & own[concept]
    if not accepted.any():
        return float("nan"), float("nan")
    return price(texts.tolist(), accepted.to_numpy()), texts[accepted].nunique() / int(accepted.sum())


def _best(best: pd.DataFrame) -> Section:
    text = (
        "Of single latents, few latents together, trained vectors and supervised directions, the one whose odds ratio "
        "had the highest lower bound on explored sequences of good quality; all figures are from fresh sequences. "
        "Tick: no steering; point: steered, with its 95% interval; hollow: quality too low on the fresh sequences."
    )
    section = Section("The best handle on each target", text)
    if not len(best):
        return section
    kept = ["concept", "label", "lever", "length", "baseline_rate", "rate", "rate_low", "rate_high", "log_odds",
            "log_odds_low", "log_odds_high", "valid", "perplexity_ratio", "acceptable", "steerable", "tokens",
            "tokens_none"]  # fmt: skip
    drawn = best[best["rate"].notna()]
    if len(drawn):
        caption = "Share of complete sequences with the target, without steering and under the best handle."
        section.figures = [Figure("levers-best", "What moves each target", caption, charts.handles(drawn), drawn[kept])]
    shown = columns(
        "label|target", "lever|best handle", "length|length|.2g|of the added vector, in rms lengths of the activations",
        "baseline_rate|no steering|.1%", "rate|steered|.1%", "odds|times the odds|.1f",
        "log_odds|log odds ratio|+.2f", "valid|complete|.1%|complete domains that ended by themselves",
        "perplexity_ratio|perplexity ratio|.2f|to the unsteered sequences'",
        "tokens|tokens an accepted one|,.0f|residues and stops written for one distinct sequence with the target",
        "verdict|steers",
    )  # fmt: skip
    table = best.assign(
        rate_note=[f"{r.rate_low:.1%} to {r.rate_high:.1%}" for r in rows(best)],
        log_odds_note=[f"{r.log_odds_low:+.2f} to {r.log_odds_high:+.2f}" for r in rows(best)],
        tokens_note=[f"{r.tokens_none:,.0f} without" if np.isfinite(r.tokens_none) else "" for r in rows(best)],
        verdict=best["steerable"].map({True: "yes", False: "no"}),
    )
    section.tables = [
        Table("Best handles, on fresh sequences", shown, table, csv="figures/levers-best.csv" if len(drawn) else "")
    ]
    return section


def halves(few: pd.DataFrame, whole: pd.DataFrame) -> pd.DataFrame:
    """m_half of each SAE (mean effect over seeds), target and layer, from `sizes`: columns layer, concept, sae, m_half
    (inf: above the most that were tried; nan: the trained vector moves nothing), most."""
    found = []
    for (layer, concept, sae), own in grouped(few[few["found"] == NEAREST], ["layer", "concept", "sae"]):
        full = whole[(whole["layer"] == layer) & (whole["concept"] == concept)]
        moved = len(full) and full["log_odds_low"].iloc[0] > 0
        means: Any = own.groupby("m")["log_odds"].mean()
        effect = {int(m): float(value) for m, value in means.items()}
        half = half_size(effect, full["log_odds"].iloc[0] if moved else np.nan)
        found.append((layer, concept, sae, half, max(effect)))
    return pd.DataFrame(found, columns=["layer", "concept", "sae", "m_half", "most"])


def usefulness(run: Run, palette: Palette) -> Finding | None:
    """The dictionaries compared by m_half, for the report's first page; None where no run of levers tells it."""
    few, whole = sizes(_levers(run))
    found = halves(few, whole) if len(few) else few
    if not len(found) or found["m_half"].isna().all():
        return None
    found = found[found["m_half"].notna()]
    said = []
    for sae in (name for name in palette.saes if (found["sae"] == name).any()):
        own = found[found["sae"] == sae]
        half = _half(float(own["m_half"].median()), int(own["most"].max()))
        said.append(f"{sae} {half} ({len(own)})")
    what = "targets and layers" if run.many_layers else "targets"
    text = (
        f"Latents for half of a trained vector's effect, median over the {what} that it moves (their number in "
        f"brackets): {', '.join(said)}."
    )
    if run.config["steering"]["lever_signs"] == "positive":
        text += " Latents were only added, never taken away."
    rule = (
        "Fresh sequences at the trained vector's length, of the levers of few latents nearest to it; targets whose "
        "trained vector has a log odds ratio with its 95 % interval above 0; linear in the logarithm of the number of "
        "latents between the sizes tried."
    )
    data = found.assign(label=found["concept"].map(concept_label))
    caption = "A dot a target, the bar the median; hollow: more latents than were tried."
    picture = Figure("claim-halves", "Latents for half of the effect", caption, charts.halves(data, palette), data)
    return Finding("How few latents of a dictionary control the model", "no claim", "", text, rule, picture)


def sizes(arms: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(levers of few latents at the trained vector's length, trained vectors) by target, layer, SAE and seed; of fresh
    sequences. `found`: NEAREST or TRAINED."""
    if not len(arms):
        return arms, arms
    arms = arms[(arms["stage"] == "confirm") & arms["log_odds"].notna()]
    kinds = arms["kind"].str.extract(SPARSE)
    arms = arms.assign(m=kinds[1].astype(float), found=kinds[0].notna().map({True: TRAINED, False: NEAREST}))
    whole = arms[arms["kind"] == "trained"].drop_duplicates(["layer", "concept"])
    few = arms[arms["m"].notna()]
    at = (whole if len(whole) else few.drop_duplicates(["layer", "concept"]))[["layer", "concept", "length"]]
    few = few.merge(at, on=["layer", "concept", "length"])
    few = few.sort_values(["concept", "sae", "seed", "found", "m"], kind="stable").astype({"m": int})
    return few.reset_index(drop=True), whole.reset_index(drop=True)


def _sizes(run: Run, arms: pd.DataFrame, palette: Palette, picks: list[Pick]) -> Section:
    text = (
        "The latents whose decoder directions, added up, come nearest to the trained vector, pushed as far as that "
        "vector was. m_half: latents needed for half of its effect, where it has one: a dictionary's use for control."
    )
    section = Section("How few latents it takes", text, picks=picks)
    few, whole = sizes(arms)
    if not len(few):
        return section
    few = few.assign(plain=few["found"] == NEAREST)
    renamed = {"log_odds_low": "low", "log_odds_high": "high"}
    kept = ["sae", "seed", "layer", "concept", "m", "found", "plain", "length", "log_odds", "low", "high", "n"]
    table, half = [], halves(few, whole)
    for (layer, concept), own in grouped(few.rename(columns=renamed), ["layer", "concept"]):
        name = concept_label(concept)
        full = whole[(whole["layer"] == layer) & (whole["concept"] == concept)].rename(columns=renamed)
        caption = f"At {own['length'].iloc[0]:g} rms; 95% intervals. Dashed: the trained vector; dotted: half of it."
        chart = charts.by_size(own[kept], palette, full[["log_odds", "low", "high"]])
        stem = f"levers-size-{slug(concept)}-layer{layer}"
        pick = {"layer": str(layer), "target": concept}
        section.figures.append(Figure(stem, f"{name}: effect by number of latents", caption, chart, own[kept], pick))
        row = {"label": name, "layer": layer, "length": own["length"].iloc[0]}
        row["trained"] = full["log_odds"].iloc[0] if len(full) else np.nan
        mine = half[(half["layer"] == layer) & (half["concept"] == concept)]
        row |= {one.sae: _half(one.m_half, one.most) for one in rows(mine)}
        table.append(row)
    shown = columns("label|target", "layer|layer|d", "length|length|.2g", "trained|trained vector, log odds ratio|+.2f")
    shown += columns(*(f"{sae}|m_half, {sae}" for sae in palette.saes if (few["sae"] == sae).any()))
    section.tables = [Table("Latents for half of the trained vector's effect", shown, pd.DataFrame(table))]
    if (few["found"] == TRAINED).any():
        section.text += " Hollow: as many latents, trained in their coefficients."
        section.tables.append(_fitted(few, whole))
    return section


def both(few: pd.DataFrame) -> pd.DataFrame:
    """Levers trained in their coefficients, from `sizes`, and beside them (`_near`) as many latents nearest to the
    trained vector: columns concept, layer, sae, seed, m, length, and log_odds with its bounds of each."""
    key = ["concept", "layer", "sae", "seed", "m", "length"]
    values = ["log_odds", "log_odds_low", "log_odds_high"]
    near, trained = (few[few["found"] == found][[*key, *values]] for found in (NEAREST, TRAINED))
    return trained.merge(near, on=key, how="left", suffixes=("", "_near"))


def _fitted(few: pd.DataFrame, whole: pd.DataFrame) -> Table:
    table = both(few).merge(
        whole[["concept", "layer", "log_odds"]], on=["concept", "layer"], how="left", suffixes=("", "_whole")
    )
    notes = {
        f"log_odds{end}_note": [
            f"{low:+.2f} to {high:+.2f}" if np.isfinite(low) else ""
            for low, high in zip(table[f"log_odds_low{end}"], table[f"log_odds_high{end}"], strict=True)
        ]
        for end in ("", "_near")
    }
    shown = columns(
        "label|target", "layer|layer|d", "sae|SAE", "seed|seed|d", "m|latents|d", "length|length|.2g",
        "log_odds|trained, log odds ratio|+.2f|95% interval in brackets", "log_odds_near|nearest|+.2f",
        "log_odds_whole|trained vector|+.2f",
    )  # fmt: skip
    table = table.assign(label=table["concept"].map(concept_label), **notes)
    return Table("Few latents trained in their coefficients", shown, table, folded=True)


def _half(found: float, most: int) -> str | None:
    if np.isnan(found):
        return None
    return f"{found:.1f}" if np.isfinite(found) else f"more than {most}"


def _prices(best: pd.DataFrame, others: pd.DataFrame) -> Section:
    """`others`: tables/alternatives.csv."""
    text = (
        "What an engineer would do instead is to write without steering and keep what has the target, to begin as most "
        "sequences with the target begin, to favour residues in the region that tells most of it, or to infill that "
        "region of unsteered sequences. A common target costs few draws either way; steering earns its place where the "
        "target is rare. Counted: distinct complete sequences that have the target."
    )
    section = Section("What it costs against the plain ways", text)
    known = best[best["tokens"].notna() & best["tokens_none"].notna()] if len(best) else best
    if not len(known):
        return section
    names = dict(zip(best["concept"], best["label"], strict=True))
    if len(others):
        strong = others["what"] + ", " + others["strength"].map("{:g} times".format)
        others = others.assign(
            way=others["way"].map(charts.WAYS), what=strong.where(others["strength"].notna(), others["what"])
        )
    else:
        others = known[["concept"]].assign(
            way=charts.WAYS["rejection"], rate=known["baseline_rate"], tokens=known["tokens_none"]
        )
    handles = known.assign(way=charts.HANDLE, what=known["lever"])
    kept = ["concept", "way", "what", "n", "rate", "rate_low", "rate_high", "valid", "perplexity_ratio", "distinct",
            "tokens"]  # fmt: skip
    data = pd.concat([others[others["concept"].isin(names)], handles], ignore_index=True).reindex(columns=kept)
    data.insert(1, "label", data["concept"].map(names))
    place = {concept: i for i, concept in enumerate(names)}
    data = data.sort_values("concept", key=lambda c: c.map(place), kind="stable", ignore_index=True)
    drawn = data.loc[np.isfinite(data["tokens"]), ["label", "way", "tokens"]]
    caption = "Residues and stops that the model writes for one accepted sequence."
    section.figures = [Figure("levers-price", "Price", caption, charts.prices(drawn), data)]
    shown = columns(
        "label|target", "way|way", "what|what", "rate|with the target|.1%|of the complete sequences",
        "valid|complete|.1%",
        "perplexity_ratio|perplexity ratio|.2f|under the model as it is, to the unsteered sequences'",
        "distinct|distinct|.0%|of the sequences with the target", "tokens|tokens an accepted one|,.0f",
    )  # fmt: skip
    data = data.assign(tokens=data["tokens"].where(np.isfinite(data["tokens"])))
    section.tables = [Table("Every way, on fresh sequences", shown, data, csv="figures/levers-price.csv")]
    return section


def _maps(run: Run, target: Pick) -> list[Section]:
    """The map of control and the credit probe's reliability, of the first steered layer that has them."""
    layer = run.config["activations"]["layers"][0]
    folder = f"steering/layer{layer}/levers"
    control, reliable = run.table(f"{folder}/control_map.parquet"), run.table(f"{folder}/reliability.parquet")
    where = Section(
        "Where control lies",
        "How far a unit push after a block, while a region is written, would move the share of sequences with the "
        "target: one pass of gradients over unsteered sequences. Once its residues are written, nothing changes it.",
        picks=[target],
    )
    if len(control):
        control = _regions(control, "derivative")
        control["note"] = [f"{r.derivative:.2g}, noise {r.noise:.2g}" for r in rows(control)]
        control["derivative"] = control["derivative"].where(control["derivative"] > SURE * control["noise"], 0.0)
        here = control[control["layer"] == layer]
        most = here.groupby("concept")["derivative"].transform("max")
        share = here.assign(row=here["concept"].map(concept_label), value=here["derivative"] / most.where(most > 0))
        share = share[share["value"].notna()]
        if len(share):
            about = f"Push after block {layer}; each target's derivative by region, as a share of its largest."
            where.figures.append(
                _heat("levers-map", "All targets by region", about, share, "share of the largest", ".0%")
            )
        for concept, own in grouped(control, "concept"):
            data = own.assign(row=own["layer"].astype(str), value=own["derivative"])
            name = f"{concept_label(concept)}: by layer and region"
            about = "Change of the target's rate per unit length of the best push; 0 within twice the noise."
            pick = {"target": concept}
            stem = f"levers-map-{slug(concept)}"
            where.figures.append(_heat(stem, name, about, data, "derivative", ".2~g", "after block", pick))
    trust = Section(
        "Where a property is decided",
        "How much of the outcome a probe knows by the time a region has been read: 0 nothing yet, 100% settled. The "
        "rate derivative gives credit by its steps, so a target that the probe never foresees is steered blindly.",
    )
    if len(reliable):
        data = _regions(reliable, "explained").assign(value=lambda t: t["explained"].clip(0, 1))
        data = data[data["value"].notna()].assign(row=lambda t: t["concept"].map(concept_label))
        data["note"] = [f"calibration error {r.calibration:.3f}, {r.n:,.0f} residues" for r in rows(data)]
        if len(data):
            about = "Explained variance of the outcome, cross-fitted; the tooltip has the calibration error."
            trust.figures.append(
                _heat("levers-credit", "Reliability of the credit probe", about, data, "explained", ".0%")
            )
    return [where, trust]


def _regions(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Regions in the chain's order, without the side where there is only one."""
    place = {region: i for i, region in enumerate(SIDED_REGIONS)}
    table = table.sort_values("region", key=lambda r: r.map(place), kind="stable").assign(
        **{value: table[value].astype(float)}
    )
    one = table["region"].str[0].nunique() < 2
    return table.assign(region=table["region"].str.partition("-")[2] if one else table["region"])


def _heat(
    name: str, title: str, about: str, data: pd.DataFrame, axis: str, fmt: str, rows_title: str | None = None,
    pick: dict[str, str] | None = None,
) -> Figure:  # fmt: skip
    order, regions = list(dict.fromkeys(data["row"])), list(dict.fromkeys(data["region"]))
    chart = charts.heat(data[["row", "region", "value", "note"]], order, regions, axis, fmt, rows_title)
    return Figure(name, title, about, chart, data, pick or {})


_OF_SAE = ("sae|SAE", "seed|seed|d", "m|latents|d")


def _training(table: pd.DataFrame, title: str, of: Sequence[str] = ()) -> Table:
    """What each round of a training found; `of`: columns that tell further whose it is."""
    shown = columns("label|target", "layer|layer|d", *of, "round|round|d", "norm|length|.2f", "rate|rate|.1%",
                    "valid|complete|.1%", "perplexity_ratio|perplexity, times baseline|.2f",
                    "kept|good enough")  # fmt: skip
    table = table.assign(
        label=table["concept"].map(concept_label), kept=table["accepted"].map({True: "yes", False: "no"})
    )
    return Table(title, shown, table, folded=True)


def _details(run: Run) -> Section:
    """The training of the vectors and the latents of the few-latent levers, folded."""
    section = Section("Tables")
    layers = run.config["activations"]["layers"]
    training = [run.table(f"steering/layer{n}/levers/training.parquet").assign(layer=n) for n in layers]
    if any(len(t) for t in training):
        table = pd.concat([t for t in training if len(t)], ignore_index=True)
        section.tables.append(_training(table, "Training of the vectors, round by round"))
    few = [run.of_saes("steering/{}/levers.parquet").assign(found=NEAREST)]
    if run.config["steering"]["lever_trained"]:
        few.append(run.of_saes("steering/{}/trained_levers.parquet").assign(found=TRAINED))
        steps = run.of_saes("steering/{}/trained_levers-history.parquet")
        if len(steps):
            section.tables.append(_training(steps, "Training of few latents' coefficients, round by round", _OF_SAE))
    if few := [part for part in few if len(part)]:
        shown = columns("label|target", "sae|SAE", "layer|layer|d", "seed|seed|d", "found|found as",
                        "m|latents|d", "latent|latent|d",
                        "weight|weight|+.3f",
                        "cosine|cosine with the trained vector|.2f|of all the lever's latents together")  # fmt: skip
        table = pd.concat(few, ignore_index=True).assign(label=lambda t: t["concept"].map(concept_label))
        section.tables.append(Table("Latents of the levers of few latents", shown, table, folded=True))
    return section
