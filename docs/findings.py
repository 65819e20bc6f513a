"""Write docs/findings.md and the findings in README.md from the tables of finished runs.

    python docs/findings.py results/study results/layers results/natural results/levers

Each figure is computed here from a file of `tables/` or `saes/`; the tables that it needs are copied, rounded, to
docs/findings/<run>/, so that a reader can check them without the hours of a run. Started again on those copies
(`cd docs/findings; python ../findings.py study layers natural levers`) it writes the same page.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from antibody_sae.report.findings import joined
from antibody_sae.report.tabs import levers as levers_tab
from antibody_sae.steering.arms import SPARSE
from antibody_sae.steering.doses import COMPLETE

ROOT = Path(__file__).resolve().parents[1]
ARM = [
    "sae", "architecture", "seed", "layer", "concept", "selected_by", "kind", "latent", "f1", "length", "n", "rate",
    "baseline_rate", "delta", "log_odds", "log_odds_low", "log_odds_high", "effect_sd", "p_value", "q_value", "valid",
    "perplexity_ratio", "perplexity_ratio_high", "acceptable", "steerable",
]  # fmt: skip
"""Columns of steering_by_criterion.csv that are kept."""
COPIED = (
    "saes", "complexity", "interpretable", "steering_by_criterion", "ablation", "latents_across_seeds",
    "natural_vs_written", "transfer", "alternatives",
)  # fmt: skip
HANDLES = "levers-best"
"""Of the report's figures, the best handle on each target."""
ODDS, PERPLEXITY = 3.0, 1.2
"""A lever moves a target where it has so many times the odds, COMPLETE sequences, and so many times the perplexity at
most."""
KINDS = {
    "latent": "one latent, by rate derivative", "sparse_1": "one latent, nearest", "sparse_8": "8 latents",
    "sparse_32": "32 latents", "trained_sparse_8": "8 latents, trained", "rate_derivative": "rate derivative",
    "trained": "trained vector",
    "located": "located vector",
}  # fmt: skip
MOST = 12
"""Properties shown in which natural and written antibodies differ."""
TITLES = {
    "topk": "TopK", "ordered": "Ordered", "ordered_unsorted": "Ordered, never sorted",
    "ordered_pure": "Ordered, no mass on the full code, never sorted", "matryoshka": "Matryoshka",
    "topk_untrained": "TopK, untrained", "topk_random_model": "TopK on random weights",
}  # fmt: skip


def copy(run: Path) -> Path:
    """The run's folder below docs/findings, with what this page rests on."""
    out = ROOT / "docs" / "findings" / run.name
    if run.resolve() == out:
        return out
    out.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        if (source := run / "tables" / f"{name}.csv").is_file():
            table = pd.read_csv(source)
            table = table[ARM] if name == "steering_by_criterion" else table
            table = table[[c for c in table if not c.startswith("best_f1:")]]
            table.to_csv(out / f"{name}.csv", index=False, float_format="%.4g")
    if (source := run / "report" / "figures" / f"{HANDLES}.csv").is_file():
        pd.read_csv(source).to_csv(out / f"{HANDLES}.csv", index=False, float_format="%.4g")
    summary = json.loads((run / "tables" / "summary.json").read_text())
    summary = {key: summary[key] for key in ("findings", "counts", "model", "targets")}
    (out / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    pairs = {}
    for path in sorted(run.glob("saes/layer*/*-stability.json")):
        pairs[path.name.removesuffix("-stability.json")] = json.loads(path.read_text())["pairs"]
    (out / "stability.json").write_text(json.dumps(pairs) + "\n")
    return out


def markdown(table: pd.DataFrame) -> str:
    """A table of texts; its index is the first column."""
    head = [str(table.index.name or ""), *map(str, table.columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    rows = zip(table.index, table.to_numpy(), strict=True)
    lines += ["| " + " | ".join(map(str, (i, *row))) + " |" for i, row in rows]
    return "\n".join(lines)


def titled(name: str) -> str:
    return TITLES.get(name, name)


def in_words(text: str) -> str:
    """Names of SAEs as titles."""
    for name, title in sorted(TITLES.items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"\b{name}\b", title, text)
    return text


def claims(folder: Path) -> str:
    found = json.loads((folder / "summary.json").read_text())["findings"]
    parts = []
    for one in found:
        figures = "".join(f"\n- {in_words(name)}: {value}" for name, value in one["figures"])
        parts.append(
            f"**{one['claim']}: {one['verdict']}.** {in_words(one['text'])}\n{figures}\n\nRule: {one['rule']}."
        )
    return "\n\n".join(parts)


def targets(folder: Path) -> str:
    """A target: its share without steering and what each way of choosing did, means over seeds."""
    arms = pd.read_csv(folder / "steering_by_criterion.csv")
    arms = arms[arms["length"] > 0]
    rows = {}
    for concept, mine in arms.groupby("concept", sort=False):
        row = {"unsteered": f"{mine['baseline_rate'].iloc[0]:.0%}"}
        for sae in ("topk", "ordered"):
            for criterion, title in (("f1", "best F1"), ("rate_derivative", "rate derivative")):
                own = mine[(mine["sae"] == sae) & (mine["kind"] == "latent") & (mine["selected_by"] == criterion)]
                row[f"{titled(sae)}, {title}"] = of_arms(own)
        for kind, title in (("rate_derivative", "rate derivative"), ("trained", "trained vector")):
            row[f"no SAE: {title}"] = of_arms(mine[mine["kind"] == kind].drop_duplicates(["layer", "length"]))
        rows[concept] = row
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("target"))


def of_arms(own: pd.DataFrame) -> str:
    if not len(own):
        return "–"
    steered = int(own["steerable"].sum())
    return f"{100 * own['delta'].mean():+.0f}" + (f" ({steered} of {len(own)})" if steered else "")


def dictionaries(folder: Path) -> str:
    saes = pd.read_csv(folder / "saes.csv").groupby("sae", sort=False)
    pairs = json.loads((folder / "stability.json").read_text())
    rows = {}
    for name, own in saes:
        both = pairs.get(name, [])
        row = {
            "seeds": str(len(own)),
            "FVU": f"{own['fvu'].mean():.3f}",
            "of the first 64": f"{own['fvu_64'].mean():.2f}",
            "once sorted by energy": f"{own['fvu_64_by_energy'].mean():.2f}",
            "dead": f"{own['dead'].mean():.0f}",
            "loss recovered": f"{own['loss_recovered_mean'].mean():.3f}",
            "latents above every baseline": f"{own['share_strict'].mean():.1%}",
        }
        for key, title in (
            ("stability", "stability"), ("orderedness", "orderedness"), ("orderedness_by_energy", "both sorted"),
        ):  # fmt: skip
            values = [pair[key][-1] for pair in both]
            row[title] = f"{sum(values) / len(values):.2f}" if values else "–"
        rows[titled(name)] = row
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("dictionary"))


def ablation(folder: Path) -> str:
    """Held at 0 on test antibodies that have the target: means over targets, then seeds."""
    table = pd.read_csv(folder / "ablation.csv")
    table["what"] = table["kind"].where(table["kind"] != "latent", "latent, " + table["selected_by"].fillna(""))
    table = table[table["what"].isin(["latent, f1", "latent, rate_derivative", "matched_latent"])]
    mean = table.groupby(["sae", "what"], sort=False)[["deciding", "log_odds"]].mean().round(4)
    rows = {
        f"{titled(sae)}, {what.replace('f1', 'best F1').replace('_', ' ')}": {
            "change of the deciding residues' log-probability": f"{row['deciding']:+.4f}",
            "log odds ratio of the target in what is written on": f"{row['log_odds']:+.2f}",
        }
        for (sae, what), row in mean.iterrows()
    }
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("held at 0"))


def nature(folder: Path) -> str:
    """What people have beside what the model writes, unsteered: where they differ most."""
    table = pd.read_csv(folder / "natural_vs_written.csv")
    table = table[(table["unit"] == "share") & (table["q_value"] < 0.05)]
    order = table["difference"].abs().sort_values(ascending=False).index[:MOST]
    rows = {
        f"{row['chains']}, {row['measure']}: {row['value']}": {
            "input": f"{row['input']:.1%}",
            "written": f"{row['written']:.1%} [{row['written_low']:.1%}, {row['written_high']:.1%}]",
        }
        for _, row in table.loc[order].iterrows()
    }
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("share of the chains"))


def abroad(folder: Path) -> str:
    """Each SAE on test antibodies of its own run and of the other, beside the SAE that was trained there."""
    table = pd.read_csv(folder / "transfer.csv")
    rows = {
        f"{titled(row['sae'])} of {row['found_in']}": {
            "FVU, heavy chains, at home": f"{row['fvu_heavy_home']:.3f}",
            "on the other's": f"{row['fvu_heavy_abroad']:.3f}",
            "F1 of the best latents at home": f"{row['f1_home']:.2f}",
            "on the other's ": f"{row['f1_abroad']:.2f} [{row['f1_abroad_low']:.2f}, {row['f1_abroad_high']:.2f}]",
            "of the SAE trained there": f"{row['f1_native']:.2f}",
            "latents matched by activation": f"{row['same_by_activation']:.0%}",
            "by decoder": f"{row['same_by_decoder']:.0%}",
        }
        for _, row in table.iterrows()
    }
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("SAE"))


def handles(folder: Path) -> str:
    """The lever of each target that exploration found best, on fresh sequences."""
    rows = {
        row["label"]: {
            "best handle": row["lever"],
            "length": f"{row['length']:.2g}",
            "unsteered": f"{row['baseline_rate']:.0%}",
            "steered": f"{row['rate']:.0%} [{row['rate_low']:.0%}, {row['rate_high']:.0%}]",
            "times the odds": f"{np.exp(row['log_odds']):.1f}",
            "complete": f"{row['valid']:.1%}",
            "perplexity, times the unsteered": f"{row['perplexity_ratio']:.2f}",
            "tokens an accepted one (unsteered)": f"{row['tokens']:,.0f} ({row['tokens_none']:,.0f})",
        }
        for _, row in pd.read_csv(folder / f"{HANDLES}.csv").iterrows()
    }
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("target"))


def good(arms: pd.DataFrame) -> pd.Series:
    """Which arms keep the quality; see ODDS."""
    return (arms["valid"] >= COMPLETE) & (arms["perplexity_ratio"] <= PERPLEXITY)


def moved(arms: pd.DataFrame) -> pd.Series:
    """Which arms move their target; see ODDS."""
    return good(arms) & (arms["log_odds"] >= np.log(ODDS))


def by_kind(folder: Path) -> tuple[str, int, int]:
    """(targets by kinds of lever: times the odds; how many targets some lever moves, and how many one of at most 8
    latents)."""
    arms = pd.read_csv(folder / "steering_by_criterion.csv")
    arms = arms[arms["kind"].isin(KINDS) | arms["kind"].str.fullmatch(SPARSE)]
    arms = arms[(arms["length"] > 0) & arms["log_odds"].notna()].assign(moved=moved)
    few = (arms["kind"] == "latent") | (arms["kind"].str.extract(SPARSE)[1].astype(float) <= 8)
    rows = {}
    for concept, mine in arms.groupby("concept", sort=False):
        row = {}
        for kind, title in KINDS.items():
            own = mine[mine["kind"] == kind].sort_values(["moved", "log_odds"])
            row[title] = "–"
            if len(own):
                best = own.iloc[-1]
                odds = f"{np.exp(best['log_odds']):.1f}"
                row[title] = f"**{odds}**" if best["moved"] else odds
        rows[concept] = row
    table = markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("target"))
    return table, *(int(arms.loc[arms["moved"] & own, "concept"].nunique()) for own in (True, few))


def few_latents(folder: Path) -> tuple[list[str], list[str], pd.DataFrame, pd.DataFrame]:
    """(targets, SAEs, `levers.sizes` of the run)."""
    arms = pd.read_csv(folder / "steering_by_criterion.csv").assign(stage="confirm")
    few, whole = levers_tab.sizes(arms)
    return (
        list(dict.fromkeys(arms["concept"])),
        [s for s in dict.fromkeys(arms["sae"]) if s in set(few["sae"])],
        few,
        whole,
    )


def halves(folder: Path) -> tuple[str, str]:
    """(m_half by target and dictionary, at the trained vector's length; the medians over targets, in words)."""
    concepts, saes, few, whole = few_latents(folder)
    found = levers_tab.halves(few, whole)
    most = int(found["most"].max())
    half = found.pivot(index="concept", columns="sae", values="m_half")
    vector = whole.set_index("concept")
    rows = {
        concept: {
            "length": f"{vector.at[concept, 'length']:.2g}",
            "trained vector, log odds ratio": "{log_odds:+.2f} [{log_odds_low:+.2f}, {log_odds_high:+.2f}]".format(
                **vector.loc[concept]
            ),
            **{f"m_half, {titled(sae)}": _up_to(half.at[concept, sae], most) for sae in saes},
        }
        for concept in concepts
    }
    said = ", ".join(f"{titled(sae)} {_up_to(float(half[sae].median()), most)}" for sae in saes)
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")), said


def _up_to(half: float, most: int) -> str:
    if np.isnan(half):
        return "–"
    return f"{half:.1f}" if np.isfinite(half) else f"over {most}"


def fitted(folder: Path) -> tuple[str, str]:
    """(levers of as many latents at the trained vector's length: nearest to it, and trained in their coefficients; what
    the training changes, mean over targets with its 95 % interval)."""
    concepts, saes, few, _ = few_latents(folder)
    table = levers_tab.both(few)
    table = table.assign(
        gain=table["log_odds"] - table["log_odds_near"],
        column=[f"{titled(sae)}, {m} latents" for sae, m in zip(table["sae"], table["m"], strict=True)],
        said=[
            f"{arm.log_odds_near:+.2f} to {arm.log_odds:+.2f} [{arm.log_odds_low:+.2f}, {arm.log_odds_high:+.2f}]"
            for arm in table.itertuples()
        ],
    )
    gains = table.groupby("concept")["gain"].mean().dropna()
    reach = scipy.stats.t.ppf(0.975, len(gains) - 1) * gains.sem()
    order = table.sort_values("sae", key=lambda s: s.map(saes.index), kind="stable")["column"].unique()
    shown = table.pivot(index="concept", columns="column", values="said").loc[concepts, order].fillna("–")
    return markdown(
        shown.rename_axis("target")
    ), f"{gains.mean():+.2f} [{gains.mean() - reach:+.2f}, {gains.mean() + reach:+.2f}]"


WAYS = {"rejection": "rejection", "prompt": "prompt", "logit_bias": "logit bias", "infill": "infilling"}


def prices(folder: Path) -> tuple[str, list[str]]:
    """(targets by ways: tokens written for an accepted sequence; targets that steering reaches with the fewest, of the
    ways that write whole sequences and keep the quality)."""
    others = pd.read_csv(folder / "alternatives.csv")
    handles = pd.read_csv(folder / f"{HANDLES}.csv").assign(way="steering")
    every = pd.concat([others, handles], ignore_index=True).assign(good=good)
    titles = {**WAYS, "steering": "steering, best handle"}
    rows, cheapest = {}, []
    for concept, mine in every.groupby("concept", sort=False):
        own = mine.set_index("way")
        row = {}
        for way, title in titles.items():
            row[title] = "–"
            if way in own.index and np.isfinite(own.at[way, "tokens"]):
                worse = "" if own.at[way, "good"] else "\\*"
                row[title] = f"{own.at[way, 'tokens']:,.0f} ({own.at[way, 'rate']:.0%}){worse}"
        rows[concept] = row
        whole = own.loc[own["good"] & (own.index != "infill"), "tokens"]
        if own.at["steering", "good"] and whole.idxmin() == "steering":
            cheapest.append(handles.set_index("concept").at[concept, "label"])
    return markdown(pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")), cheapest


def page(study: Path, layers: Path, natural: Path, levers: Path) -> str:
    counts = json.loads((study / "summary.json").read_text())
    arms = pd.read_csv(study / "steering_by_criterion.csv")
    read = json.loads((natural / "summary.json").read_text())["counts"]
    kinds, some, few = by_kind(levers)
    ways, cheapest = prices(levers)
    half, medians = halves(levers)
    both, gain = fitted(levers)
    written = int(pd.read_csv(levers / "steering_by_criterion.csv")["n"].max())
    asked = len(json.loads((levers / "summary.json").read_text())["targets"])
    return f"""# Findings

*Written by `make findings` from the tables of four runs; every figure can be computed again from the small tables in
[docs/findings](findings), which are rounded copies of `results/<run>/tables`.*

The study of [docs/protocol.md](protocol.md), whose rules were fixed before any run under it: `tests/config/study.yaml`
(IgLM, layer 2, {counts["counts"]["antibodies"]:,} generated antibodies, {len(counts["targets"])} targets chosen by its
rule, five seeds of TopK, Ordered and both controls of claim 1, two of the other dictionaries) and
`tests/config/layers.yaml` (layer 3, two seeds), in {counts["model"]["dtype"]}, {int(arms["n"].max())} fresh sequences a
confirmed arm. Both were run once, on one H200 GPU. An earlier study (version 0.1.0: mostly truncated chains, rules
partly chosen after its data were seen) is not reported any more.

## The claims, layer 2

{claims(study)}

## Target by target, layer 2

Change of the target's share in percentage points, mean over seeds, of fresh sequences under the arm that exploration
chose; in brackets in how many seeds the arm passes every test (significant in its family, at least 95 % complete,
perplexity at most 1.2 times the unsteered). Criteria and kinds: [reading the tables](reading-the-tables.md).

{targets(study)}

## Dictionaries, layer 2

Test antibodies; means over seeds. Orderedness is the rank correlation of matched latents' indices between two seeds, as
the dictionaries are and once both are sorted by energy: what sorting gives to any dictionary is not the law's merit.

{dictionaries(study)}

## Necessity: latents held at 0, layer 2

{ablation(study)}

## The claims, layer 3

{claims(layers)}

{targets(layers)}

{dictionaries(layers)}

## Levers

`tests/config/levers.yaml`, layer 2: what moves each of the default run's targets and a V gene, how few latents of a
dictionary do it too, and at which price. One seed, so no test of the claims. The lever of each target that had the
highest lower bound in exploration, on {written} fresh sequences:

{handles(levers)}

Times the odds of the target by kind of lever, at the length that exploration chose (levers of latents: of all
dictionaries the best, which flatters). **Bold**: at least {ODDS:g} times the odds, at {COMPLETE:.0%} complete sequences
and at most {PERPLEXITY:g} times the perplexity. Some lever does it for {some} of {asked} targets, one of at most 8
latents for {few}: the best of many arms and sizes, so less certain than a row of the table above.

{kinds}

Latents for half of the trained vector's effect, at its length (m_half), where it has one; TopK sorted by energy has
TopK's. Medians over targets: {medians}.

{half}

The same number of latents, found greedily towards the trained vector and then trained in their coefficients under the
hard limit on their number: log odds ratio at the trained vector's length, from the one to the other, and the 95 %
interval of the trained one. The training changes it by {gain}, mean over targets:

{both}

What an engineer would do instead: tokens written for one distinct complete sequence with the target, and in brackets
the share of complete sequences that have it (\\*: fewer than {COMPLETE:.0%} complete, or above {PERPLEXITY:g} times the
perplexity). A prompt is the ten residues that most sequences with the target begin with; a bias favours residues in the
region that tells most of the target; infilling lets IgLM write that region of eight unsteered sequences anew, so their
rest stays ([reading the tables](reading-the-tables.md)). Of the ways that write whole sequences and keep the quality,
steering is the cheapest for {", ".join(cheapest) or "none"}.

{ways}

## Natural antibodies

`tests/config/natural.yaml` on {read["antibodies"]:,} human pairs (Jaffe et al. 2022, from OAS), both chains read by
IgLM; one seed, so no test of the claims. The {MOST} properties in which the input and what IgLM writes unsteered differ
most (all with q < 0.05; the input's antibodies are related, and its own make-up is that of one study):

{nature(natural)}

Latents found on natural antibodies, and what pushing them does to what the model writes:

{targets(natural)}

SAEs of this run (1,024 latents) and of the default run (2,048), each on the other's test antibodies: F1 is over the
concepts that both runs can test, of latents chosen at home ([reading the tables](reading-the-tables.md)):

{abroad(natural)}
"""


def readme(study: Path, natural: Path, levers: Path) -> None:
    """The findings of README.md, between its two markers."""
    lines = []
    for one in json.loads((study / "summary.json").read_text())["findings"]:
        value = dict(one["figures"])
        shown = [f"{in_words(name)}: {value[name]}" for name in value if "less" in name][:2]
        line = f"*{one['claim']}*: **{one['verdict']}**. {in_words(one['text'])}"
        line += f" ({'; '.join(shown)})" if shown else ""
        lines.append(textwrap.fill(line, 120, initial_indent="- ", subsequent_indent="  "))
    _, some, few = by_kind(levers)
    asked = len(json.loads((levers / "summary.json").read_text())["targets"])
    arms = pd.read_csv(levers / "steering_by_criterion.csv")
    line = (
        f"*Levers*: {ODDS:g} times the odds, at {COMPLETE:.0%} complete sequences and at most {PERPLEXITY:g} times"
        f" the perplexity, are within reach of some lever for {some} of {asked} targets, of 8 latents for {few}, the"
        f" best of many arms. Latents for half of a trained vector's effect, median over targets: {halves(levers)[1]}."
    )
    arms = arms[arms["kind"] == "located"].drop_duplicates("concept")
    each = [
        f"{arm['concept'].partition('=')[2]} from {arm['baseline_rate']:.0%} to {arm['rate']:.0%} ({arm['valid']:.0%}"
        " complete)"
        for _, arm in arms.iterrows()
    ]
    if each:
        line += f" A vector that acts only in the region where its target is decided brings {joined(each)}."
    _, cheapest = prices(levers)
    line += (
        " Of rejection, a prompt, a logit bias and steering, each at that quality, steering writes the fewest tokens"
        f" for an accepted sequence for {', '.join(cheapest) or 'none'}."
    )
    lines.append(textwrap.fill(line, 120, initial_indent="- ", subsequent_indent="  "))
    there_too = pd.read_csv(natural / "transfer.csv").set_index(["found_in", "sae"]).loc[(natural.name, "topk")]
    read = json.loads((natural / "summary.json").read_text())["counts"]["antibodies"]
    there, home, native = (f"{there_too[f'f1_{where}']:.2f}" for where in ("abroad", "home", "native"))
    line = (
        f"*Natural antibodies*: latents that a TopK SAE found on {read:,} human pairs predict their concepts in what"
        f" IgLM writes as well as at home (F1 {there} and {home}; the SAE trained there, twice as wide, {native}), and"
        f" {there_too['same_by_activation']:.0%} of them have a counterpart in it that fires alike."
        " What IgLM writes differs most in how little it is mutated and in IGHJ6."
    )
    lines.append(textwrap.fill(line, 120, initial_indent="- ", subsequent_indent="  "))
    path = ROOT / "README.md"
    text = path.read_text()
    new = "<!-- make findings -->\n" + "\n".join(lines) + "\n<!-- end of findings -->"
    path.write_text(re.sub(r"<!-- make findings -->.*?<!-- end of findings -->", lambda _: new, text, flags=re.S))


def main() -> None:
    study, layers, natural, levers = (copy(Path(name)) for name in sys.argv[1:5])
    (ROOT / "docs" / "findings.md").write_text(page(study, layers, natural, levers))
    readme(study, natural, levers)


if __name__ == "__main__":
    main()
