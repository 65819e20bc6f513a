"""Does a latent control what the model writes? Candidates, controls, generation, and the statistics.

The unit of work is an *arm*: one intervention and the sequences written under it. The arms of one SAE (or of a layer's
SAE-independent controls) are planned together, generated in chunks, numbered once, and compared.

What may be compared with what: candidates are chosen on the train and validation splits; every rate is measured on
newly generated sequences, and associations that stand beside them are test figures. Every criterion, every SAE type and
every direction that is not a latent gets the same number of tries, at multiples of a latent's largest activation and at
equal length of the added vector.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from torch import Tensor

from antibody_sae import catalogue, interventions, numbering
from antibody_sae.activations import Store
from antibody_sae.interventions import Edit, Intervention, Where
from antibody_sae.io import InputError, progress, read_parquet, write_parquet
from antibody_sae.labels import REGIONS, SPLITS, Labels
from antibody_sae.sae import SAE

if TYPE_CHECKING:  # transformers takes seconds to import, and planning and outcomes need no model
    from antibody_sae.models import AntibodyModel, Encoded

CRITERIA = ("f1", "r", "output_score", "decoder_alignment", "earliest")
SUPERVISED = ("difference_of_means", "probe", "rate_gradient")
"""Directions that need labels or gradients, but no SAE; kinds of arms."""
BATCH = 128
"""Rows of a batch of generation: fixed, because a row's random numbers come from its batch and place."""
PANEL = 4000
"""Antibodies at most that candidates are chosen on, evenly spaced over the run's, so that memory stays bounded."""
NEIGHBOURS = 2000
"""Training sequences at most, evenly spaced, among which a designed sequence's nearest is looked for."""
ASSOCIATED = 0.2
"""Correlation from which on a latent counts as associated for the criterion `earliest`."""
THRESHOLDS = np.arange(10) / 10
"""Shares of a latent's largest activation that F1 is tried at; 0 means active at all."""


# --- what is known before anything is generated -------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """Antibodies that candidates are chosen and associations measured on."""

    rows: np.ndarray
    """[n] rows of the labels' antibodies."""
    has: np.ndarray
    """[n, targets] bool."""
    test: np.ndarray
    """[n] bool: measured on, never chosen on."""
    targets: list[str]


def panel(labels: Labels, targets: Sequence[str]) -> Panel:
    """At most PANEL antibodies, evenly spaced. Raises InputError for a target that no antibody, or every one, has."""
    known = [*labels.antibody_names, *labels.residue_names]
    for target in targets:
        if target not in known:
            group = target.partition("=")[0]
            near = [name for name in known if name.partition("=")[0] == group] or sorted(
                {n.partition("=")[0] for n in known}
            )
            raise InputError(
                f"steering.targets: {target!r} is no concept of this run; there are {', '.join(near[:30])}"
            )
    n = len(labels.first)
    rows = np.unique(np.linspace(0, n - 1, min(n, PANEL)).round().astype(np.int64))
    has = np.stack([labels.having(target)[rows] for target in targets], 1)
    test = labels.split[rows] == SPLITS.index("test")
    for j, target in enumerate(targets):
        positives = int(has[~test, j].sum())
        if positives < 5 or positives > (~test).sum() - 5:
            raise InputError(
                f"steering.targets: {positives} of {(~test).sum()} antibodies to choose on have {target}; that is too "
                "few to compare: take another target, or more antibodies"
            )
    return Panel(rows, has, test, list(targets))


def context(target: str) -> tuple[list[int], list[int]]:
    """(regions whose activations stand for a target, regions whose residues decide it), as indices into REGIONS.

    V genes and what lies in the V domain before CDR3 are read in FR1 and decided up to FR3; everything else is read in
    CDR3 and decided in CDR3 and FR4. Light-chain concepts mean the light chain's regions.
    """
    value = target.partition("=")[2]
    side = "L" if value.startswith(("IGK", "IGL", "L")) else "H"
    early = target.startswith(("v-", "cdr1", "cdr2")) or value[:4] in ("IGHV", "IGKV", "IGLV")
    if target.startswith("position="):
        early = int("".join(filter(str.isdigit, value.partition(":")[0]))) < 105
    read, decided = (["FR1"], ["FR1", "CDR1", "FR2", "CDR2", "FR3"]) if early else (["CDR3"], ["CDR3", "FR4"])
    index = {region: i for i, region in enumerate(REGIONS)}
    return [index[f"{side}-{r}"] for r in read], [index[f"{side}-{r}"] for r in decided]


def _panel_blocks(store: Store, labels: Labels, panel: Panel) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    """Activations of the panel's residues: (x [m, d] float32, place in the panel [m], residue_id [m])."""
    first, length = labels.first[panel.rows], labels.length[panel.rows]
    order = np.argsort(first)
    starts = first[order]
    for acts, residue_id in store.blocks():
        place = order[np.maximum(np.searchsorted(starts, residue_id, side="right") - 1, 0)]
        mine = (residue_id >= first[place]) & (residue_id < first[place] + length[place])
        if mine.any():
            yield acts[torch.from_numpy(mine)].float(), place[mine], residue_id[mine]


def directions(store: Store, labels: Labels, panel: Panel) -> dict[str, Tensor]:
    """Supervised directions of each target, [targets, d_model] float32, unit length.

    `difference_of_means`: mean activation of antibodies with the concept minus that of the others, each antibody its
    mean over the target's context (Marks & Tegmark 2023, arXiv:2310.06824). `probe`: the weights of an L2-regularised
    logistic regression on the same means. Train and validation antibodies only.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import, and nothing else here needs it

    contexts = [tuple(context(target)[0]) for target in panel.targets]
    distinct = sorted(set(contexts))
    sums = {c: torch.zeros(len(panel.rows), store.d_model) for c in distinct}
    counts = {c: torch.zeros(len(panel.rows)) for c in distinct}
    for x, place, residue_id in _panel_blocks(store, labels, panel):
        region = labels.region[residue_id]
        for c in distinct:
            inside = np.isin(region, c)
            at = torch.from_numpy(place[inside])
            sums[c].index_add_(0, at, x[torch.from_numpy(inside)])
            counts[c].index_add_(0, at, torch.ones(len(at)))
    means, probes = [], []
    for j, c in enumerate(contexts):
        use = ~panel.test & (counts[c] > 0).numpy()
        mean = (sums[c] / counts[c].clamp(min=1)[:, None]).numpy()[use]
        y = panel.has[use, j]
        if y.all() or not y.any():
            raise InputError(
                f"steering.targets: {panel.targets[j]}: no chain with the regions it is read in has it, or all"
            )
        means.append(mean[y].mean(0) - mean[~y].mean(0))
        scale = store.manifest["scale"]
        fitted = LogisticRegression(C=1.0, max_iter=300).fit((mean - mean.mean(0)) / scale, y)
        probes.append(fitted.coef_[0])
    return {
        "difference_of_means": _unit(torch.tensor(np.array(means), dtype=torch.float32)),
        "probe": _unit(torch.tensor(np.array(probes), dtype=torch.float32)),
    }


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def rate_gradient(
    model: AntibodyModel, layer: int, antibodies: pd.DataFrame, labels: Labels, panel: Panel, where: Where, most: int
) -> Tensor:
    """[targets, d_model] how each target's rate changes with a vector v added to the residual stream, at v = 0.

    For sequences x drawn from the model, d/dv P(c) = E[1(c) d/dv log p_v(x)] = Cov(1(c), d/dv log p_v(x))
    (the score-function identity; Williams 1992), so one backward pass a sequence gives the derivative along every
    latent at once: the output score of latent j is this gradient's product with its direction. Only residues in the
    regions that decide the target count, the others' terms having mean zero. For sequences that the model did not draw
    it is the contrast in log-likelihood between those with the concept and those without.
    `antibodies` has columns heavy, light, species, in the order of the labels; `most` train and validation antibodies
    are used, evenly spaced.
    """
    usable = np.flatnonzero(~panel.test)
    used = usable[np.unique(np.linspace(0, len(usable) - 1, min(most, len(usable))).round().astype(int))]
    spans = [tuple(context(target)[1]) for target in panel.targets]
    distinct = sorted(set(spans))
    passages: list[Encoded] = []
    owners: list[int] = []
    chains: list[str] = []
    for i in used:
        row = antibodies.iloc[panel.rows[i]]
        heavy = row["heavy"] if isinstance(row["heavy"], str) else None
        light = row["light"] if isinstance(row["light"], str) else None
        encoded = model.encode(heavy, light, row["species"])
        passages += encoded
        owners += [int(i)] * len(encoded)
        chains += ["H" if heavy else "L", "L"][: len(encoded)]
    gradients = {span: torch.zeros(len(panel.rows), model.d_model) for span in distinct}
    ids = model.residue_tokens
    order = sorted(range(len(passages)), key=lambda p: len(passages[p].tokens))
    for start in progress(range(0, len(order), 32), -(-len(order) // 32), "likelihood gradients"):
        batch = order[start : start + 32]
        width = max(len(passages[p].tokens) for p in batch)
        tokens = torch.zeros(len(batch), width, dtype=torch.long)
        region = np.full((len(batch), width), -1, np.int8)
        before = np.zeros(len(batch), np.int64)
        for b, p in enumerate(batch):
            tokens[b, : len(passages[p].tokens)] = torch.from_numpy(passages[p].tokens)
            at = np.flatnonzero(passages[p].residue >= 0)
            first = labels.first[panel.rows[owners[p]]]
            region[b, at] = labels.region[first + passages[p].residue[at]]
            before[b] = at[0]
        tokens = tokens.to(model.device)
        acted = where.mask(tokens, int(before[0]), ids).float()
        weights = [torch.from_numpy(np.isin(region, span)).to(model.device) for span in distinct]
        for span, gradient in zip(distinct, _likelihood_gradients(model, layer, tokens, acted, weights), strict=True):
            gradients[span].index_add_(0, torch.tensor([owners[p] for p in batch]), gradient.cpu())
    out = []
    for j, span in enumerate(spans):
        y = torch.from_numpy(panel.has[used, j]).float()
        g = gradients[span][used]
        out.append(((y - y.mean())[:, None] * g).mean(0))
    return torch.stack(out)


def _likelihood_gradients(
    model: AntibodyModel, layer: int, tokens: Tensor, acted: Tensor, weights: Sequence[Tensor]
) -> Iterator[Tensor]:
    """[batch, d_model] gradients of sum over t of w[t] log p(token t) with respect to a vector added after block
    `layer` where acted [batch, T] is 1; one for each w [batch, T] in `weights`."""
    with torch.enable_grad():
        vector = torch.zeros(len(tokens), 1, model.d_model, device=model.device, requires_grad=True)

        def add(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            changed = (hidden.float() + acted[..., None] * vector).to(hidden.dtype)
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = model.blocks[layer - 1].register_forward_hook(add)
        try:
            logits = model.hf(input_ids=tokens, use_cache=False).logits[:, :-1].float()
        finally:
            handle.remove()
        log_p = logits.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
        for i, weight in enumerate(weights):
            (gradient,) = torch.autograd.grad((log_p * weight[:, 1:]).sum(), vector, retain_graph=i + 1 < len(weights))
            yield gradient[:, 0].detach()


@dataclass(frozen=True)
class Associations:
    """How each latent's largest activation over an antibody goes with each target; [latents, targets] each."""

    f1: np.ndarray
    """On train and validation antibodies, at the best of THRESHOLDS there; candidates are chosen by it."""
    r: np.ndarray
    """Point-biserial correlation there."""
    test_f1: np.ndarray
    """On test antibodies, at that same threshold."""
    test_r: np.ndarray


def associate(sae: SAE, store: Store, labels: Labels, panel: Panel) -> Associations:
    """Associations of every latent with every target, by max-pooling over the antibody."""
    n = len(panel.rows)
    pooled = torch.zeros(n * sae.latents)
    for x, place, _ in _panel_blocks(store, labels, panel):
        codes = sae.encode(x)
        cell = torch.from_numpy(place)[:, None] * sae.latents + codes.indices.long()
        pooled.scatter_reduce_(0, cell.flatten(), codes.values.flatten(), "amax")
    a = pooled.view(n, sae.latents).numpy()
    figures = []
    thresholds = np.zeros((sae.latents, len(panel.targets)))
    for test in (False, True):
        use = panel.test == test
        figures.append((_f1(a[use], panel.has[use], sae.max_activation.numpy()), _correlation(a[use], panel.has[use])))
    chosen, tested = figures
    best = np.nan_to_num(chosen[0]).argmax(0)
    thresholds = np.take_along_axis(chosen[0], best[None], 0)[0]
    return Associations(thresholds, chosen[1], np.take_along_axis(tested[0], best[None], 0)[0], tested[1])


def _f1(a: np.ndarray, y: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """[thresholds, latents, targets] F1 of a > threshold * largest for a [n, latents], y [n, targets]."""
    out = np.empty((len(THRESHOLDS), a.shape[1], y.shape[1]))
    labels = y.astype(np.float32)
    for t, share in enumerate(THRESHOLDS):
        positive = (a > share * largest).astype(np.float32)
        hits = positive.T @ labels
        out[t] = 2 * hits / np.maximum(positive.sum(0)[:, None] + labels.sum(0), 1)
    return out


def _correlation(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """[latents, targets] Pearson correlation; 0 where a column does not vary."""
    if not len(a):
        return np.zeros((a.shape[1], y.shape[1]))
    a, y = a - a.mean(0), y - y.mean(0)
    norm = np.sqrt((a**2).sum(0))[:, None] * np.sqrt((y**2).sum(0))
    return np.divide(a.T @ y, norm, out=np.zeros((a.shape[1], y.shape[1])), where=norm > 0)


def choose(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], criteria: Sequence[str], candidates: int, seed: int
) -> list[list[tuple[str, int]]]:
    """For each target, (criterion, latent) pairs, `candidates` a criterion, best first.

    f1, r: association on train and validation. output_score: derivative of the target's rate along the latent's unit
    direction (`rate_gradient`). decoder_alignment: cosine with the difference of means. earliest: the lowest indices
    among the latents that correlate by at least ASSOCIATED (or by half of the best, where none does); for TopK, whose
    order means nothing, the indices are shuffled first and the criterion is called shuffled_index.
    """
    alive = sae.max_activation.numpy() > 0
    unit = sae.directions.numpy()
    ordered = sae.config["architecture"] != "topk"
    rank = np.arange(sae.latents) if ordered else np.random.default_rng(seed).permutation(sae.latents)
    output = unit @ known["rate_gradient"].numpy().T
    aligned = unit @ known["difference_of_means"].numpy().T
    chosen = []
    for j in range(found.r.shape[1]):
        associated = found.r[:, j] >= min(ASSOCIATED, found.r[alive, j].max() / 2)
        scores = {
            "f1": found.f1[:, j],
            "r": found.r[:, j],
            "output_score": output[:, j],
            "decoder_alignment": aligned[:, j],
            "earliest": np.where(associated, -rank, -np.inf),
        }
        pairs = []
        for criterion in criteria:
            score = np.where(alive, scores[criterion], -np.inf)
            best = [int(i) for i in np.argsort(-score, kind="stable")[:candidates] if np.isfinite(score[i])]
            name = "shuffled_index" if criterion == "earliest" and not ordered else criterion
            pairs += [(name, latent) for latent in best]
        chosen.append(pairs)
    return chosen


def tested_latents(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], targets: Sequence[str], latents: Sequence[int]
) -> pd.DataFrame:
    """What is known of each planned latent and target before it is steered: latent, concept, f1 and r (train and
    validation), test_f1, test_r, output_score, decoder_alignment, density."""
    rows = np.array(sorted(set(latents)))
    figures = {
        "f1": found.f1, "r": found.r, "test_f1": found.test_f1, "test_r": found.test_r,
        "output_score": sae.directions.numpy() @ known["rate_gradient"].numpy().T,
        "decoder_alignment": sae.directions.numpy() @ known["difference_of_means"].numpy().T,
    }  # fmt: skip
    table = pd.DataFrame({"latent": np.repeat(rows, len(targets)), "concept": list(targets) * len(rows)})
    for name, values in figures.items():
        table[name] = values[rows].ravel().astype(float)
    return table.assign(
        density=np.repeat(sae.density.numpy()[rows], len(targets)), latent=table["latent"].astype("Int64")
    )


def typical_counts(labels: Labels, panel: Panel, side: str) -> dict[str, tuple[int, int]]:
    """Region -> (median residues of the chain before it, up to its end), for Where; `side` is "H" or "L"."""
    found: dict[str, list[tuple[int, int]]] = {}
    for i in panel.rows[~panel.test][:1000]:
        region = labels.region[labels.first[i] : labels.first[i] + labels.length[i]]
        light = labels.light[labels.first[i] : labels.first[i] + labels.length[i]]
        region = region[light == (side == "L")]
        for name in interventions.REGIONS:
            at = np.flatnonzero(region == REGIONS.index(f"{side}-{name}"))
            if len(at):
                found.setdefault(name, []).append((int(at[0]), int(at[-1]) + 1))
    return {
        name: (int(np.median([a for a, _ in ends])), int(np.median([b for _, b in ends])))
        for name, ends in found.items()
    }


# --- arms -----------------------------------------------------------------------------------------------------------


PLAN = ("arm", "kind", "concept", "latent", "selected_by", "method", "strength", "norm", "n")


def typical_length(store: Store) -> float:
    """Root mean square length of the centred residual stream, which `norms` are multiples of."""
    return float(store.manifest["scale"]) * store.d_model**0.5


def plan_controls(
    known: Mapping[str, Tensor], targets: Sequence[str], settings: Mapping[str, Any], store: Store
) -> tuple[pd.DataFrame, Tensor]:
    """Arms that need no SAE: none, supervised directions, random directions; (plan, vectors [arms, d_model])."""
    length = typical_length(store)
    generator = torch.Generator().manual_seed(int(settings["seed"]))
    rows: list[dict[str, Any]] = [{"kind": "none", "strength": 0.0, "n": settings["baseline"]}]
    vectors = [torch.zeros(store.d_model)]
    gaussian = _unit(torch.randn(settings["random_latents"], store.d_model, generator=generator))
    for share in settings["norms"]:
        for kind in SUPERVISED:
            for j, target in enumerate(targets):
                rows.append({"kind": kind, "concept": target, "strength": np.nan})
                vectors.append(share * length * _unit(known[kind][j]))
        for direction in gaussian:
            rows.append({"kind": "random_direction", "strength": np.nan, "n": settings["random_n"]})
            vectors.append(share * length * direction)
    return _plan(rows, vectors, settings)


def _plan(
    rows: list[dict[str, Any]], vectors: list[Tensor], settings: Mapping[str, Any]
) -> tuple[pd.DataFrame, Tensor]:
    stacked = torch.stack(vectors)
    plan = pd.DataFrame(rows).reindex(columns=list(PLAN))
    plan["arm"] = np.arange(len(plan))
    plan["method"] = plan["method"].astype("object").fillna("add")
    plan["norm"] = stacked.norm(dim=1).numpy().astype(float)
    plan["n"] = plan["n"].fillna(settings["n"]).astype("int64")
    plan["latent"] = plan["latent"].astype("Int64")
    for column in ("concept", "selected_by"):
        plan[column] = plan[column].astype("object")
    return plan, stacked


def plan_sae(
    sae: SAE, found: Associations, known: Mapping[str, Tensor], targets: Sequence[str], settings: Mapping[str, Any],
    length: float, seed: int,
) -> tuple[pd.DataFrame, Tensor]:  # fmt: skip
    """An SAE's arms: candidates, random latents, matched latents, shuffled signs; (plan, vectors [arms, d_model]).

    `length` is the store's `typical_length`.

    A latent chosen for several targets or by several criteria is steered once: its arm's `concept` and `selected_by`
    are joined by ";" in pairs. `strength` is in multiples of the latent's largest activation in every arm of a latent;
    `norm` is the length of the added vector (of a clamp: where the latent was inactive).
    """
    rng = np.random.default_rng([seed, zlib.crc32(sae.config["architecture"].encode())])
    chosen = choose(sae, found, known, settings["criteria"], settings["candidates"], seed)
    wanted: dict[int, list[tuple[str, str]]] = {}
    for target, pairs in zip(targets, chosen, strict=True):
        for criterion, latent in pairs:
            wanted.setdefault(latent, []).append((target, criterion))
    rows: list[dict[str, Any]] = []
    vectors: list[Tensor] = []
    one = (sae.max_activation * sae.scale)[:, None] * sae.directions  # the vector of strength 1

    def add(kind: str, latent: int, strength: float, about: Mapping[str, Any], vector: Tensor | None = None) -> None:
        rows.append({"kind": kind, "latent": latent, "strength": strength, **about})
        vectors.append(strength * (one[latent] if vector is None else vector))

    def at_norms(latent: int) -> list[float]:
        return [share * length / float(one[latent].norm()) for share in settings["norms"]]

    for latent, reasons in wanted.items():
        names = {"concept": ";".join(t for t, _ in reasons), "selected_by": ";".join(c for _, c in reasons)}
        for method in settings["methods"]:
            for strength in settings["strengths"]:
                add("latent", latent, strength, {**names, "method": method})
        for strength in at_norms(latent):
            add("latent", latent, strength, names)
    density = sae.density.numpy()
    others = np.array([i for i in np.flatnonzero(sae.max_activation.numpy() > 0) if i not in wanted])
    for latent in rng.permutation(others)[: settings["random_latents"]].tolist():
        for strength in at_norms(latent):
            add("random_latent", latent, strength, {"n": settings["random_n"]})
    for j, (target, pairs) in enumerate(zip(targets, chosen, strict=True)):
        latent = next((i for criterion, i in pairs if criterion == "output_score"), pairs[0][1])
        r = np.abs(found.r[others, j])
        unrelated = others[r <= max(ASSOCIATED / 2, np.quantile(r, 0.25))] if len(others) else others
        look = np.log([density + 1e-6, one.norm(dim=1).numpy() + 1e-12])
        for twin in unrelated[np.abs(look[:, unrelated] - look[:, [latent]]).sum(0).argsort()[:1]].tolist():
            for strength in at_norms(twin):
                add("matched_latent", twin, strength, {"concept": target})
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], sae.d_model).astype(np.float32))
        for strength in at_norms(latent):
            add("shuffled_sign", latent, strength, {"concept": target}, signs * one[latent])
    return _plan(rows, vectors, settings)


# --- generation -----------------------------------------------------------------------------------------------------


def generate(
    model: AntibodyModel,
    layer: int,
    arms: Sequence[Intervention],
    counts: Sequence[int],
    writing: Mapping[str, Any],
    seed: Sequence[int],
    chunk: int = 0,
    chunks: int = 1,
) -> pd.DataFrame:
    """Sequences of all arms: columns arm, row (within the arm), text, ended.

    Arms lie end to end in batches of BATCH rows; chunk c takes every chunks-th batch from the c-th on. A batch's random
    numbers depend on `seed` and its number alone, so the sequences do not depend on the number of chunks. `writing`:
    chains, species, temperature, top_p, prompt of the `sequences` section.
    """
    arm = np.repeat(np.arange(len(counts)), counts)
    row = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.empty(0, np.int64)
    starts = range(0, len(arm), BATCH)
    mine = range(chunk, len(starts), chunks)
    tables = []
    for b in progress(mine, len(mine), f"writing {len(arm)} sequences in {len(counts)} arms"):
        rows = slice(starts[b], min(starts[b] + BATCH, len(arm)))
        edit = Edit(model, [arms[a] for a in arm[rows]], writing["chains"], writing["species"])
        word = np.random.SeedSequence([*seed, b]).generate_state(1, np.uint64)[0]
        written = model.generate(
            len(arm[rows]), seed=int(word >> np.uint64(1)), layer=layer, edit=edit, batch_size=BATCH, **writing
        )
        columns = {"text": [w.text for w in written], "ended": [w.ended for w in written]}
        tables.append(pd.DataFrame({"arm": arm[rows], "row": row[rows], **columns}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["arm", "row", "text", "ended"])


def to_interventions(plan: pd.DataFrame, vectors: Tensor, where: Where, sae: SAE | None = None) -> list[Intervention]:
    """The interventions of a plan's arms, in order."""
    out = []
    columns = (plan["method"], plan["latent"], plan["strength"], vectors)
    for method, latent, strength, vector in zip(*columns, strict=True):
        if method == "clamp":
            assert sae is not None, "clamp arms need their SAE"
            out.append(interventions.clamp(sae, {int(latent): float(strength)}, where))
        else:
            out.append(Intervention(vector=vector, where=where))
    return out


def split_chains(
    texts: Sequence[str], writing: Mapping[str, Any], species: Sequence[str]
) -> list[tuple[str | None, str | None]]:
    """(heavy, light) of what the model wrote."""
    if writing["chains"] == "HL":
        return numbering.split_pairs(texts, species)
    return [(text or None, None) if writing["chains"] == "H" else (None, text or None) for text in texts]


def log_likelihoods(
    model: AntibodyModel, table: pd.DataFrame, writing: Mapping[str, Any], species: Sequence[str], most: int
) -> np.ndarray:
    """[rows] mean log-likelihood (nats a residue) under the unsteered model of each arm's first `most` sequences.

    It is nan for the others and for texts without residues. Pairs count both chains, by residues.
    """
    value = np.full(len(table), np.nan)
    rows = np.flatnonzero((table["row"] < most).to_numpy() & (table["text"].str.len() > 0).to_numpy())
    passages: list[Encoded] = []
    owners: list[int] = []
    for i, (heavy, light) in zip(
        rows.tolist(), split_chains(table["text"].iloc[rows].tolist(), writing, species), strict=True
    ):
        encoded = model.encode(heavy, light, writing["species"], writing["chains"])
        passages += encoded
        owners += [i] * len(encoded)
    if passages:
        sizes = np.array([(p.residue >= 0).sum() + 1 for p in passages])
        total = np.bincount(owners, model.log_likelihood(passages) * sizes, len(table))
        value[rows] = (total / np.maximum(np.bincount(owners, sizes, len(table)), 1))[rows]
    return value


def training_sequences(antibodies: pd.DataFrame, splits: pd.DataFrame, chains: str) -> list[str]:
    """At most NEIGHBOURS training antibodies, evenly spaced, as the model writes them (heavy and light together)."""
    train = splits.loc[splits["split"] == "train", "antibody_id"]
    table = antibodies[antibodies["antibody_id"].isin(train)]
    sides = [table[side].fillna("") for letter, side in (("H", "heavy"), ("L", "light")) if letter in chains]
    joined: Any = sides[0] if len(sides) == 1 else sides[0] + sides[1]
    texts = [str(text) for text in joined if text]
    most = min(len(texts), NEIGHBOURS)
    return [texts[i * len(texts) // most] for i in range(most)]


def frequent(labels: Labels) -> list[str]:
    """Antibody-level concepts that between 2 and 98 % of the antibodies have: the side effects that are watched."""
    share = np.bincount(labels.antibody.idx, minlength=len(labels.antibody_names)) / max(1, len(labels.first))
    return [name for name, s in zip(labels.antibody_names, share, strict=True) if 0.02 <= s <= 0.98]


# --- outcomes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbered:
    """Distinct texts that a model wrote, numbered."""

    antibodies: pd.DataFrame
    """One row a text: text, antibody_id, heavy, light, valid (all of its chains were numbered)."""
    chains: pd.DataFrame
    """As numbering/chains.parquet, of all texts."""
    residues: pd.DataFrame
    """As numbering/residues.parquet, of the valid ones."""


def number_texts(texts: Iterable[str], writing: Mapping[str, Any], settings: Mapping[str, Any]) -> Numbered:
    """Number each distinct text once; `settings` is the `numbering` section (species, scheme)."""
    distinct = list(dict.fromkeys(texts))
    pairs = split_chains(distinct, writing, settings["species"])
    columns: dict[str, Any] = {"antibody_id": [f"s{i}" for i in range(len(distinct))], "text": distinct}
    columns |= {"heavy": [heavy for heavy, _ in pairs], "light": [light for _, light in pairs]}
    antibodies = pd.DataFrame(columns, dtype="object")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("antibodies.parquet", "chains.parquet", "residues.parquet")]
        write_parquet(antibodies, paths[0])
        numbering.number_chunk(paths[0], 0, 1, settings["species"], settings["scheme"], paths[1], paths[2])
        chains, residues = read_parquet(paths[1]), read_parquet(paths[2])
    bad = set(chains.loc[chains["status"] != "ok", "antibody_id"])
    antibodies["valid"] = antibodies["antibody_id"].isin(set(chains["antibody_id"]) - bad)
    keep = antibodies.loc[antibodies["valid"], "antibody_id"]
    return Numbered(antibodies, chains, residues[residues["antibody_id"].isin(keep)].reset_index(drop=True))


def outcomes(
    written: pd.DataFrame,
    concepts: Sequence[str],
    writing: Mapping[str, Any],
    settings: Mapping[str, Any],
    reference: Sequence[str],
    most: int,
) -> pd.DataFrame:
    """What became of each row of `written`: valid, heavy, light, v_gene, j_gene, cdr3 and fr4 (of the heavy, else the
    light chain), edit_distance (of each arm's first `most` rows), and one bool column a concept.

    `settings` holds the sections `numbering` and `concepts`; `reference` the training sequences among which the nearest
    is looked for (Levenshtein distance, in residues).
    """
    found = number_texts(written["text"], writing, settings["numbering"])
    table = found.antibodies.copy()
    main = found.chains[found.chains["status"] == "ok"].drop_duplicates("antibody_id").set_index("antibody_id")
    for column in ("v_gene", "j_gene", "cdr3"):
        table[column] = table["antibody_id"].map(main[column]).where(table["valid"], None)
    mine = found.residues["chain"].to_numpy() == found.residues["antibody_id"].map(main["chain"]).to_numpy()
    fr4 = found.residues[mine & (found.residues["region"] == "FR4").to_numpy()]
    table["fr4"] = table["antibody_id"].map(fr4.groupby("antibody_id")["residue"].agg("".join)) if len(fr4) else None
    names = list(dict.fromkeys(concepts))
    held = label_concepts(found, names, settings["concepts"], writing["species"])
    table = pd.concat([table, pd.DataFrame(held, columns=names)], axis=1)
    rows = written.merge(table.drop(columns="antibody_id"), on="text", how="left", validate="many_to_one")
    near = (rows["row"] < most).to_numpy() & (rows["text"].str.len() > 0).to_numpy()
    rows["edit_distance"] = np.nan
    if len(reference) and near.any():
        distances = cdist(rows.loc[near, "text"].tolist(), reference, scorer=Levenshtein.distance, dtype=np.uint16)
        rows.loc[near, "edit_distance"] = distances.min(1).astype(float)
    return rows.drop(columns="text")


def label_concepts(found: Numbered, concepts: Sequence[str], settings: Mapping[str, Any], species: str) -> np.ndarray:
    """[texts, concepts] bool by the catalogue's own functions; False for texts that were not numbered.

    `settings` is the `concepts` section; columns of a run's input are not known of new antibodies: they are left out.
    """
    out = np.zeros((len(found.antibodies), len(concepts)), bool)
    valid = found.antibodies["valid"].to_numpy(bool)
    if not valid.any() or not concepts:
        return out
    rows = found.antibodies[valid].assign(species=species, split="test", cluster_id=0).reset_index(drop=True)
    chains = found.chains[found.chains["antibody_id"].isin(rows["antibody_id"])]
    residues = found.residues.assign(residue_id=np.arange(len(found.residues)))
    block = catalogue.Block(rows, chains, residues, {**settings, "metadata": {}})
    pairs = [concept for concept in concepts if concept.startswith("position=")]
    labels, _ = catalogue.label(iter([block]), block.settings, pairs=pairs)
    known = {*labels.antibody_names, *labels.residue_names}
    order = pd.Series(np.flatnonzero(valid), index=rows["antibody_id"])[labels.ids].to_numpy()
    for c, concept in enumerate(concepts):
        if concept in known:
            out[order, c] = labels.having(concept)
    return out
