"""A whole results folder with made-up numbers in the real columns, for tests of what only reads tables.

`make(folder, config)` writes what the stages before `tables` write. Steering's tables come from steering's own
functions, so a column renamed there breaks the tests here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from antibody_sae import config as settings
from antibody_sae.concepts import dictionaries
from antibody_sae.concepts.sparse_probes import KS
from antibody_sae.io import read_arrays, read_json, write_json, write_parquet, write_safetensors
from antibody_sae.report.run import Run
from antibody_sae.steering import claims, doses, effects, plans
from antibody_sae.steering.arms import COLUMNS

RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
REGIONS = {
    "FR1": (25, 1),
    "CDR1": (8, 27),
    "FR2": (17, 39),
    "CDR2": (8, 56),
    "FR3": (38, 67),
    "CDR3": (13, 105),
    "FR4": (11, 118),
}
HOSTILE = "<script>document.title='hacked'</script>"
CONCEPTS = {
    "region=H-CDR3": "residue", "region=H-FR4": "residue", "residue=Y": "residue", "position=H105:A": "residue",
    "j-gene=IGHJ4": "antibody", "j-gene=IGHJ6": "antibody", "v-family=IGHV4": "antibody",
    "cdr3-length=H:>=22": "antibody",
    f"donor={HOSTILE}": "antibody",
}  # fmt: skip
TARGETS = ["j-gene=IGHJ4", "v-family=IGHV4"]
LOADED = {"latents": 48, "k": 9, "architecture": "topk", "loaded": {"library": "SAELens", "kind": "jumprelu"}}
"""config.json of an SAE that is not trained, where the configuration has one."""


def configuration(latents: int = 64, **sections: Any) -> dict[str, Any]:
    """A complete configuration of such a run; sections are merged over it."""
    base: dict[str, Any] = {
        "run": "synthetic",
        "saes": {
            "shared": {"latents": latents, "k": 4},
            "train": {"topk": {"architecture": "topk"}, "ordered": {"architecture": "ordered"}},
        },
        "steering": {"targets": TARGETS, "lever_trained": [max(SIZES)]},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section} if isinstance(section, dict) else section
    return settings.complete(base)


def make(folder: Path, config: dict[str, Any], antibodies: int = 40, steered: bool = True, seed: int = 0) -> Run:
    """Write the run's tables and return it."""
    run, rng = Run(folder, config), np.random.default_rng(seed)
    ids = _sequences(folder, antibodies, rng)
    for layer in config["activations"]["layers"]:
        about = {"model": "iglm", "revision": "0.1.0", "weights_sha256": "0" * 64, "tokenizer_sha256": "1" * 64}
        about["model_dtype"] = "float32"
        write_json(
            {**about, "layer": layer, "d_model": 16, "scale": 0.6, "n": 1000},
            folder / f"activations/layer{layer}/manifest.json",
        )
    positions = [f"H{start + i}" for length, start in REGIONS.values() for i in range(length)]
    names = {"positions": positions, "regions": [f"{c}-{r}" for c in "HL" for r in REGIONS], "residues": list(RESIDUES)}
    write_json(names, folder / "concepts/labels.json")
    for sae in run.saes:
        _trained(run, sae, rng)
        _concepts(run, sae, ids, positions, rng)
    for name in run.settings:
        for layer in config["activations"]["layers"]:
            if len(config["saes"]["seeds"]) > 1 and layer in settings.layers(config)[name]:
                pair = {
                    "seeds": config["saes"]["seeds"][:2],
                    "latents": [16, 64],
                    "stability": [0.7, 0.6],
                    "orderedness": [0.8, 0.9],
                }
                write_json({"pairs": [pair]}, folder / f"saes/layer{layer}/{name}-stability.json")
    _concept_tables(run)
    _quality(run, np.random.default_rng(seed + 1))
    if steered:
        _steering(run, rng)
    (folder / "benchmarks").mkdir(exist_ok=True)
    for rule, seconds in (
        ("generate-0", 90),
        ("number-0", 20),
        ("train_sae-layer2-topk-seed0", 60),
        ("steer_generate-x", 120),
    ):
        (folder / "benchmarks" / f"{rule}.tsv").write_text(f"s\tmax_rss\n{seconds}\t900\n")
    return run


def _sequences(folder: Path, n: int, rng: np.random.Generator) -> list[str]:
    ids = [HOSTILE, *(f"antibody{i}" for i in range(1, n))]
    length = sum(size for size, _ in REGIONS.values())
    letters = rng.choice(list(RESIDUES), (n, length))
    region = np.repeat(list(REGIONS), [size for size, _ in REGIONS.values()])
    imgt = np.concatenate([start + np.arange(size) for size, start in REGIONS.values()])
    residues = pd.DataFrame(
        {
            "antibody_id": np.repeat(ids, length), "chain": "H", "position": np.tile(np.arange(length), n),
            "residue": letters.ravel(), "imgt": np.tile(imgt, n).astype("int16"), "insertion": "",
            "region": np.tile(region, n),
        }
    )  # fmt: skip
    write_parquet(residues, folder / "numbering/residues.parquet")
    chains = pd.DataFrame(
        {
            "antibody_id": ids, "chain": "H", "side": "heavy", "status": "ok", "v_gene": "IGHV3-23", "j_gene": "IGHJ4",
            "first_residue_id": np.arange(n) * length, "length": length,
        }
    )  # fmt: skip
    failed = pd.DataFrame(
        [{"antibody_id": "broken", "side": "heavy", "status": "no domain found", "first_residue_id": -1, "length": 10}]
    )
    write_parquet(pd.concat([chains, failed], ignore_index=True), folder / "numbering/chains.parquet")
    checked = {"truncated": 8, "truncated_start": 7, "truncated_end": 1, "misplaced": 1, "low_identity": 2}
    write_json({"chains": n + 1, "numbered": n, **checked}, folder / "numbering/summary.json")
    write_json({"read": n + 3, "accepted": n + 1, "rejected": {"stop codon": 2}}, folder / "sequences/summary.json")
    split = ["train"] * (n - 10) + ["validation"] * 5 + ["test"] * 5
    write_parquet(
        pd.DataFrame({"antibody_id": ids, "cluster_id": np.arange(n), "split": split}),
        folder / "splits/antibodies.parquet",
    )
    return ids


def _trained(run: Run, sae: Any, rng: np.random.Generator) -> None:
    place = run.folder / "saes" / sae.folder
    loaded = "load" in run.settings[sae.name]
    if loaded:
        write_json(LOADED, place / "config.json")
    k = run.shape(sae)["latents"]
    rows = torch.randn(k, 16, generator=torch.Generator().manual_seed(int(rng.integers(1e6))))
    write_safetensors({"decoder.weight": rows / rows.norm(dim=1, keepdim=True)}, place / "sae.safetensors")
    tokens = np.linspace(2048, 200_000, 40).astype(int)
    fvu = 0.1 + 0.6 * np.exp(-tokens / 4e4) + 0.01 * rng.random(40)
    history = {
        "step": tokens // 2048,
        "tokens": tokens,
        "loss": fvu,
        "fvu": fvu,
        "aux_loss": 0.0,
        "dead": rng.integers(0, 5, 40),
        "k": 4,
        "lr": 1e-3,
    }
    if not loaded:
        write_parquet(pd.DataFrame(history), place / "history.parquet")
    prefix = [0, 1, 4, 16, k]
    write_json(
        {
            "tokens": 5000, "fvu": 0.11, "explained_variance": 0.89, "l0": 4.0, "cosine": 0.9, "dead": 1, "dense": 2,
            "prefixes": {"latents": prefix, "explained_variance": list(np.linspace(0, 0.89, len(prefix)))},
            "ce_model": 0.5, "ce_reconstruction": 0.55, "loss_recovered_zero": 0.97, "loss_recovered_mean": 0.95,
        },
        place / "metrics.json",
    )  # fmt: skip


def _concepts(run: Run, sae: Any, ids: list[str], positions: list[str], rng: np.random.Generator) -> None:
    k = run.shape(sae)["latents"]
    n = len(CONCEPTS)
    f1 = rng.uniform(0.5, 0.95, n)
    best = pd.DataFrame({"concept": list(CONCEPTS), "level": list(CONCEPTS.values())})
    best["latent"] = pd.array(rng.permutation(k)[:n], dtype="Int64")
    figures = {"f1": f1, "f1_low": f1 - 0.05, "f1_high": f1 + 0.04, "precision": f1, "recall": f1, "auroc": 0.9,
               "r": f1 - 0.1, "support": 100.0, "q_value": 1e-9, "f1_simple": 0.6, "f1_probe_raw": 0.97}  # fmt: skip
    best = best.assign(simple_baseline="position", pool="max", threshold=0.15, beats_simple=f1 > 0.6, **figures)
    best.loc[n - 2, "latent"] = pd.NA  # one that could not be tested
    write_parquet(best, run.folder / "concepts" / sae.folder / "best.parquet")
    rows = [(j, c, rng.uniform(0, 0.9), rng.uniform(-0.2, 0.9)) for j in best["latent"].dropna() for c in CONCEPTS]
    pairs = pd.DataFrame(rows, columns=["latent", "concept", "f1", "r"])
    write_parquet(pairs.astype({"latent": "int64"}), run.folder / "concepts" / sae.folder / "associations.parquet")
    one = {"concept": "", "level": "antibody", "pool": "max", "f1": 0.9, "precision": 0.8, "recall": 1.0, "auroc": None,
           "r": 0.7, "threshold": 0.15, "q_value": 1e-5}  # fmt: skip
    rows = []
    for j in range(k):
        concept = list(CONCEPTS)[j % n]
        tops = [ids[0], *rng.choice(ids[1:], 6, replace=False)] if j % 2 else []
        rows.append(
            {
                "layer": sae.layer, "sae": sae.name, "seed": sae.seed, "latent": j, "max_activation": float(j % 7),
                "density": rng.uniform(0, 0.1),
                "antibodies": 0.5, "span": 2.0, "extent": 5.0, "entropy_region": 1.2, "entropy_residue": 2.0,
                "n_concepts": int(rng.integers(0, 9)),
                "concept": concept if j % 7 else None, "f1": rng.uniform(0, 1) if j % 7 else np.nan,
                "interpretable": bool(j % 3 == 0),
                "interpretable_strict": bool(j % 6 == 0),
                "best_concepts": json.dumps([{**one, "concept": concept}] if j % 7 else []),
                "top_antibodies": tops, "top_values": [4.0] * len(tops),
                "top_residues": [np.array([0, 100, 115])] * len(tops),
                "top_activations": [np.array([1.0, 4.0, 0.5])] * len(tops), "profile_positions": positions[j : j + 5],
                "profile_values": rng.random(len(positions[j : j + 5])),
                "profile_regions": rng.random(14) * ([1] * 7 + [0] * 7),
                "profile_residues": rng.random(20),
                "lens_residues": list("AVDRE"), "lens_logits": [2.0, 1.5, 1.0, 0.5, -0.2],
            }
        )  # fmt: skip
    write_parquet(pd.DataFrame(rows), run.folder / "latents" / f"{sae.folder}.parquet")


def _concept_tables(run: Run) -> None:
    folder = run.folder / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [{"layer": s.layer, "sae": s.name, "seed": s.seed} for s in run.saes]
    counted = {
        "latents": 64,
        "alive": 60,
        "interpretable": 20,
        "share": 1 / 3,
        "interpretable_strict": 12,
        "share_strict": 0.2,
        "concepts": 6,
        "concepts_strict": 4,
    }
    pd.DataFrame([{**key, **counted} for key in keys]).to_csv(folder / "interpretable.csv", index=False)
    mean = {"topk": 2.0, "ordered": 3.1}
    complexity = [{**key, "subset": s, "latents": 60, "dense": 0.1, "density_mean": 0.02,
                   "n_concepts_mean": mean.get(key["sae"], 2.5), "n_above_yes_mean": mean.get(key["sae"], 2.5) / 2,
                   "entropy_region_mean": mean.get(key["sae"], 2.0) / 2,
                   "entropy_residue_mean": 2.0}
                  for key in keys for s in ("all", "first 64", "others", "matched density")]  # fmt: skip
    pd.DataFrame(complexity).to_csv(folder / "complexity.csv", index=False)
    best = [
        pd.read_parquet(run.folder / "concepts" / s.folder / "best.parquet").assign(**key)
        for s, key in zip(run.saes, keys, strict=True)
    ]
    pd.concat(best).to_csv(folder / "best_latents.csv", index=False)


def _quality(run: Run, rng: np.random.Generator) -> None:
    """What `quality.measure` leaves of each SAE, and the tables that it becomes."""
    saes, stability = [], {}
    for sae in run.saes:
        k = run.shape(sae)["latents"]
        concepts = pd.DataFrame({"concept": list(CONCEPTS), "level": list(CONCEPTS.values())})
        concepts["pool"] = concepts["level"].map({"residue": "none", "antibody": "max"})
        n = len(concepts)
        concepts = concepts.assign(
            positives=100, latents=[rng.permutation(k)[:16].tolist() for _ in range(n)], takes=rng.integers(1, 4, n),
            f1_always_yes=0.2, f1_activations=0.95, auroc_activations=0.99, called=90.0, missed=0.3, absorbed=0.2,
            absorbed_low=0.1, absorbed_high=0.3, absorbed_by='{"7": 12}',
        )  # fmt: skip
        figures = {"concepts_residues": 4, "concepts_antibodies": 5, "concepts_absorption": 4, "absorbed": 0.2,
                   "absorbed_low": 0.1, "absorbed_high": 0.3}  # fmt: skip
        for rows in ("residues", "antibodies"):
            figures |= {f"f1_{rows}_always_yes": 0.2, f"takes_{rows}": 1.5}
            for name, top in (("f1", 0.9), ("auroc", 0.98)):
                figures[f"{name}_{rows}_activations"] = top
                for probe in KS:
                    value = top - 0.2 / probe + 0.01 * rng.random()
                    concepts[f"{name}_k{probe}"] = value
                    figures |= {f"{name}_{rows}_k{probe}{end}": value + by
                                for end, by in (("", 0.0), ("_low", -0.02), ("_high", 0.02))}  # fmt: skip
                    if name == "f1":
                        concepts[f"f1_k{probe}_low"], concepts[f"f1_k{probe}_high"] = value - 0.02, value + 0.02
        place = run.folder / "saes" / sae.folder
        agreed = run.folder / "saes" / f"layer{sae.layer}" / f"{sae.name}-stability.json"
        if agreed.exists():
            stability[sae.layer, sae.name] = read_json(agreed)["pairs"]
        directions = read_arrays(place / "sae.safetensors")["decoder.weight"]
        config, metrics = {**run.settings[sae.name], **run.shape(sae)}, read_json(place / "metrics.json")
        saes.append(
            dictionaries.Dictionary(sae.layer, sae.name, sae.seed, config, metrics, figures, concepts, directions)
        )
    folder = run.folder / "tables"
    dictionaries.side_by_side(saes, stability).to_csv(folder / "dictionaries.csv", index=False)
    dictionaries.by_concept(saes).to_csv(folder / "dictionary_concepts.csv", index=False)


def _joined(plan: plans.Plan, lift: dict[tuple[str, int], float], rng: np.random.Generator) -> pd.DataFrame:
    """The plan's arms with outcomes, as `measured.joined` gives them; `lift` is what a length of 0.3 adds to
    TARGETS[0], by (kind, latent or -1)."""
    rows = []
    for arm in plan.table.itertuples():
        n = int(arm.n)
        row = {"arm": arm.arm, "n_valid": n, "valid": 1.0, "unique": 1.0, "scored": n, "log_likelihood": -0.5,
               "log_likelihood_sd": 0.1, "edit_distance": 20.0}  # fmt: skip
        moved = lift.get((arm.kind, -1 if pd.isna(arm.latent) else int(arm.latent)), 0.0) * arm.length / 0.3
        for concept, base in zip([*TARGETS, "j-gene=IGHJ6"], (0.33, 0.2, 0.3), strict=True):
            row[f"hits:{concept}"] = int(rng.binomial(n, base + (moved if concept == TARGETS[0] else 0.0)))
        rows.append(row)
    return plan.table.merge(pd.DataFrame(rows), on="arm")


def _explored(rows: list[dict[str, Any]]) -> plans.Plan:
    """Each row at both of LENGTHS; a latent's strength is 1 at the second."""
    spread = [
        {
            "n": 60,
            "chains": "H",
            **row,
            "length": length,
            "strength": length / LENGTHS[1] if "latent" in row else np.nan,
        }
        for row in rows
        for length in ((0.0,) if row["kind"] == "none" else LENGTHS)
    ]
    table = pd.DataFrame(spread).reindex(columns=list(COLUMNS))
    vectors = torch.zeros(len(table), 16)
    vectors[:, 0] = torch.tensor(table["length"].to_numpy(float) * 2.4)
    return plans._numbered(table, vectors)


LENGTHS = (0.2, 0.3)
SIZES = (1, 8)
CONFIRMED = {"n": 200, "random_n": 60}


def _outcomes(plan: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for arm in plan.itertuples():
        for i in range(12):
            loop = "AR" + "".join(rng.choice(list(RESIDUES), int(rng.integers(4, 14)))) + "DY"
            rows.append(
                {
                    "arm": arm.arm,
                    "row": i,
                    "valid": i > 0,
                    "cdr3": loop if i else None,
                    "fr4": "WGQGTLVTVSS" if i else None,
                    "heavy": f"EVQLVESGG{loop}WGQGTLVTVSS",
                    "light": None,
                    **{target: bool(i > 0 and rng.random() < 0.5) for target in TARGETS},
                }
            )
    return pd.DataFrame(rows)


def _levers(folder: Path, units: list[str], rng: np.random.Generator) -> None:
    """What training the levers leaves, in the columns of `control_map`, `trained` and `sparse`."""
    regions = [f"H-{region}" for region in REGIONS]
    cells = [(target, layer, region) for target in TARGETS for layer in range(1, 5) for region in regions]
    found = pd.DataFrame(cells, columns=["concept", "layer", "region"])
    falls = found["layer"] * (1 + found["region"].map(regions.index))
    write_parquet(
        found.assign(derivative=1 / falls + 0.02 * rng.random(len(found)), noise=0.01),
        folder / "levers/control_map.parquet",
    )
    known = found[found["layer"] == 1].drop(columns="layer").assign(n=400.0, calibration=0.02)
    known["explained"] = np.linspace(-0.01, 0.95, len(regions)).tolist() * len(TARGETS)
    write_parquet(known, folder / "levers/reliability.parquet")
    rounds = [
        {"concept": target, "round": i, "norm": 0.2, "rate": 0.3 + 0.1 * i, "valid": 0.99, "perplexity_ratio": 1.05,
         "accepted": i < 2}
        for target in TARGETS for i in range(3)
    ]  # fmt: skip
    write_parquet(pd.DataFrame(rounds), folder / "levers/training.parquet")
    for unit in units:
        few = [
            {"concept": target, "m": m, "latent": j, "weight": 1 / (1 + j), "cosine": 0.2 + 0.05 * m}
            for target in TARGETS for m in SIZES for j in range(m)
        ]  # fmt: skip
        write_parquet(pd.DataFrame(few), folder / unit / "levers.parquet")
        few = [row | {"latent": row["latent"] + 1} for row in few if row["m"] == max(SIZES)]
        write_parquet(pd.DataFrame(few), folder / unit / "trained_levers.parquet")
        steps = pd.DataFrame(rounds).assign(m=max(SIZES))
        write_parquet(steps, folder / unit / "trained_levers-history.parquet")


def _steering(run: Run, rng: np.random.Generator) -> None:
    frames = []
    for layer in run.config["activations"]["layers"]:
        folder = run.folder / "steering" / f"layer{layer}"
        rows: list[dict[str, Any]] = [{"kind": "none", "n": 1000}]
        kinds = ("difference_of_means", "probe", "rate_derivative", "trained")
        rows += [{"kind": kind, "concept": target} for target in TARGETS for kind in kinds]
        explored = {"controls": _explored(rows + [{"kind": "random_direction"}] * 8)}
        lift = {"controls": {("difference_of_means", -1): 0.3, ("trained", -1): 0.35}}
        mine = [sae for sae in run.saes if sae.layer == layer and not settings.control_of(run.settings[sae.name])]
        if not mine:
            continue
        units = {f"{sae.name}-seed{sae.seed}": sae for sae in mine}
        tested = {}
        for unit, sae in units.items():
            rows = []
            for target in TARGETS:
                for latent, why in ((3, "f1;r"), (9, "rate_derivative"), (14, "earliest")):
                    pairs = {"concept": ";".join([target] * len(why.split(";"))), "selected_by": why}
                    rows.append({"kind": "latent", "latent": latent, **pairs})
                rows += [
                    {"kind": kind, "latent": 20, "concept": target} for kind in ("matched_latent", "shuffled_sign")
                ]
                few = [f"sparse_{m}" for m in SIZES] + [f"trained_sparse_{max(SIZES)}"]
                rows += [{"kind": kind, "concept": target} for kind in few]
            explored[unit] = _explored(rows + [{"kind": "random_latent", "latent": 40 + i} for i in range(8)])
            lift[unit] = {("latent", 9): 0.25 if sae.name != "topk" else 0.0, ("sparse_1", -1): 0.1,
                          ("sparse_8", -1): 0.3 if sae.name != "topk" else 0.15}  # fmt: skip
            tested[unit] = pd.DataFrame([
                {"latent": j, "concept": t, "f1": rng.uniform(0.3, 0.9), "r": rng.uniform(0, 0.9),
                 "rate_derivative": rng.normal(0, 0.1), "decoder_alignment": rng.uniform(-0.3, 0.3),
                 "output_score": rng.uniform(), "delta_token_confidence": rng.uniform()}
                for j in (3, 9, 14, 20, *range(40, 48)) for t in TARGETS
            ]).astype({"latent": "Int64"})  # fmt: skip
        looked = {unit: _joined(plan, lift[unit], rng) for unit, plan in explored.items()}
        written = dict.fromkeys(TARGETS, "H")
        lengths = doses.choose(list(looked.values()), written, 1.2)
        confirmed = {unit: plans.confirm(plan, lengths, CONFIRMED) for unit, plan in explored.items()}
        fresh = {unit: _joined(plan, lift[unit], rng) for unit, plan in confirmed.items()}
        write_parquet(lengths, folder / "doses.parquet")
        _levers(folder, list(units), rng)
        for stage, of in (("explore", explored), ("confirm", confirmed)):
            for unit, plan in of.items():
                write_parquet(plan.table, folder / unit / stage / "plan.parquet")
                write_parquet(_outcomes(plan.table, rng), folder / unit / stage / "outcomes.parquet")
        for unit, (table, side) in effects.effects(fresh, looked, lengths, tested, written, 1.2).items():
            sae = units[unit]
            write_parquet(table, folder / unit / "effects.parquet")
            write_parquet(side, folder / unit / "side_effects.parquet")
            write_parquet(tested[unit], folder / unit / "tested.parquet")
            kind = run.settings[sae.name]["architecture"]
            frames.append(table.assign(sae=sae.name, architecture=kind, seed=sae.seed, layer=layer))
    every = pd.concat(frames, ignore_index=True)
    criteria = claims.by_criterion(every)
    criteria.to_csv(run.folder / "tables/steering_by_criterion.csv", index=False)
    claims.mapping_table(criteria).to_csv(run.folder / "tables/mapping_vs_steering.csv", index=False)
    write_json(claims.claims(criteria, every), run.folder / "tables/claims.json")
    seeds = run.config["saes"]["seeds"]
    matches = pd.DataFrame([
        {"sae": sae.name, "layer": sae.layer, "seed": sae.seed, "other_seed": other, "latent": latent, "match": match,
         "cosine": 0.8, "like": 5, "cosine_like": 0.1}
        for sae in run.saes for other in seeds if other > sae.seed for latent, match in ((3, 3), (9, 8), (14, 14))
    ])  # fmt: skip
    claims.across_seeds(criteria, matches).to_csv(run.folder / "tables/latents_across_seeds.csv", index=False)
    ablated = [
        {"concept": target, "kind": kind, "latent": latent, "selected_by": why, "antibodies": 12, "deciding": -0.3,
         "deciding_low": -0.5, "deciding_high": -0.1, "elsewhere": 0.0, "rate": 0.4, "log_odds": -0.5,
         "log_odds_low": -1.0, "log_odds_high": 0.1, "sae": sae.name, "layer": sae.layer, "seed": sae.seed}
        for sae in run.saes for target in TARGETS
        for kind, latent, why in (("none", None, None), ("latent", 3, "f1;r"), ("matched_latent", 20, None))
    ]  # fmt: skip
    pd.DataFrame(ablated).to_csv(run.folder / "tables/ablation.csv", index=False)
