"""An SAE for others: the files that SAELens reads, and a Hugging Face style folder with a model card.

>>> sae = SAE.load("results/default/saes/layer2/ordered-seed0")
>>> export_saelens(sae, "ordered")  # sae_lens.SAE.load_from_disk("ordered") gives the same codes
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from antibody_sae.io import atomic, write_json, write_safetensors
from antibody_sae.models.presets import PRESETS, ModelSpec
from antibody_sae.sae.checkpoints import SAELENS
from antibody_sae.sae.model import SAE

_FORMAT = "6.0.0"
"""Version of SAELens whose cfg.json is written; without one the file counts as older, and its metadata is lost."""
_UNKNOWN = "not known; that of the model's weights applies"


def tokens_seen(config: Mapping[str, Any]) -> int | None:
    """Tokens of the steps that an SAE was trained for; None where its config.json does not say."""
    if "batch_size" not in config:
        return None
    batch, tokens = int(config["batch_size"]), int(config["tokens"])
    return max(1, tokens // batch) * batch if tokens else 0


def metadata(sae: SAE) -> dict[str, Any]:
    """What a user must know to give an SAE the activations that it was trained on, under SAELens's names where it has
    some."""
    config = sae.config
    folded = f"; the scale {sae.scale:.6g} of training is folded into the weights"
    kept = ("layer", "revision", "weights_sha256", "tokenizer_sha256", "model_dtype", "architecture", "activation")
    return {
        "sae_lens_version": _FORMAT,
        "sae_lens_training_version": None,
        "model_name": config.get("model"),
        "hook_name": config.get("hook"),
        **{key: config.get(key) for key in kept},
        "scaling": "reads raw activations" + folded * (sae.scale != 1),
        "tokens_seen": tokens_seen(config),
        "licence": PRESETS.get(config.get("model") or "", {}).get("licence") or _UNKNOWN,
    }


def export_saelens(sae: SAE, folder: str | Path) -> None:
    """Write cfg.json and sae_weights.safetensors that `sae_lens.SAE.load_from_disk(folder)` reads.

    The scale is folded into the weights, so the exported SAE reads raw activations and gives the same codes and
    reconstructions; its decoder rows have norm `scale`. One whose k largest latents are active is SAELens's `topk`, one
    with thresholds its `jumprelu`.
    """
    tensors = {
        "W_enc": (sae.encoder_weight.T / sae.scale).contiguous(),
        "b_enc": sae.encoder_bias,
        "W_dec": sae.directions * sae.scale,
        "b_dec": sae.pre_bias,
    }
    kind: dict[str, Any] = {"architecture": "topk", "k": sae.k, "rescale_acts_by_decoder_norm": False}
    if sae.threshold is not None:
        tensors["threshold"], kind = sae.threshold, {"architecture": "jumprelu"}
    write_safetensors(tensors, Path(folder) / SAELENS.weights)
    shape = {"d_in": sae.d_model, "d_sae": sae.latents, "dtype": "float32", "device": "cpu"}
    reading = {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    write_json({**kind, **shape, **reading, "metadata": metadata(sae)}, Path(folder) / SAELENS.about)


_METRICS = (
    ("fvu", "fraction of variance unexplained", ".4f"),
    ("l0", "active latents a residue", ".1f"),
    ("cosine", "cosine of an activation and its reconstruction", ".3f"),
    ("dead", "latents that never fire", ",d"),
    ("dense", "latents active on over 10% of residues", ",d"),
    ("ce_model", "cross-entropy of the model, nats a token", ".3f"),
    ("ce_reconstruction", "with the reconstruction spliced in", ".3f"),
    ("loss_recovered_zero", "loss recovered against zero ablation", ".1%"),
    ("loss_recovered_mean", "loss recovered against mean ablation", ".1%"),
)
"""Rows of the card's table: key of metrics.json, words, format."""


def _front_matter(spec: ModelSpec) -> str:
    """The YAML at a card's head, as Hugging Face's hub reads it."""
    licence: dict[str, str] = {"license": spec.licence.lower() or "unknown"}
    if " " in spec.licence:  # a sentence, not a name of the hub's list
        licence = {"license": "other", "license_name": "terms-of-the-model"}
    hub = not spec.packaged and not Path(spec.checkpoint).exists()
    head = {
        "library_name": "saelens",
        **licence,
        "base_model": spec.checkpoint if hub else spec.name,
        "tags": ["sparse-autoencoder", "interpretability", "saelens", "antibody", "protein-language-model"],
    }
    return yaml.safe_dump(head, sort_keys=False)


def card(sae: SAE, metrics: Mapping[str, Any], spec: ModelSpec, name: str) -> str:
    """README.md of an SAE's folder: front matter, what it reads, its metrics (metrics.json), how to load it."""
    about = metadata(sae)
    if sae.threshold is None:
        active = f"the {sae.k} largest of a residue"
    else:
        active = f"those above their thresholds, {sae.k} of a residue in the mean"
    tokens = "not known" if about["tokens_seen"] is None else f"{about['tokens_seen']:,}"
    facts = {
        "model": f"{about['model_name']}, in {about['model_dtype']}",
        "revision": about["revision"] or "none",
        "SHA-256 of the model's weights": about["weights_sha256"],
        "place": f"residual stream after block {about['layer']}, the output of `{about['hook_name']}`, at residues",
        "latents": f"{sae.latents:,} in {sae.d_model} dimensions",
        "active latents": active,
        "architecture": about["architecture"],
        "activation": about["activation"] or "topk",
        "scaling": about["scaling"],
        "tokens of training": tokens,
        "licence of the model": about["licence"],
    }
    if loaded := sae.config.get("loaded"):
        facts["first saved by"] = f"{loaded['library']} ({loaded['kind']})"
    figures = {words: format(metrics[key], form) for key, words, form in _METRICS if metrics.get(key) is not None}

    def table(head: str, rows: Mapping[str, Any]) -> str:
        return "\n".join([f"| {head} | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in rows.items())])

    return f"""---
{_front_matter(spec)}---

# {name}: a sparse autoencoder of {about["model_name"]}, layer {about["layer"]}

{table("what it is", facts)}

{table(f"on {metrics['tokens']:,} residues of held-out antibodies", figures)}

It means nothing on the activations of another model, layer or place: compare them with the table first.

## Use

```python
import torch

activations = torch.randn(8, {sae.d_model})  # put yours here: [n, {sae.d_model}], raw
```

With [SAELens](https://github.com/decoderesearch/SAELens), in this folder:

```python
import sae_lens

theirs = sae_lens.SAE.load_from_disk(".")
dense = theirs.encode(activations)  # [n, {sae.latents}]
```

With antibody-sae, which also steers with it, and takes it into a run by `saes: {{train: {{mine: {{load: FOLDER}}}}}}`:

```python
from antibody_sae.sae import SAE

sae = SAE.load(".")
codes = sae.encode(activations)  # codes.indices and codes.values [n, active latents]
reconstruction = sae.decode(codes)  # [n, {sae.d_model}]
```
"""


def publish(sae: SAE, metrics: Mapping[str, Any], spec: ModelSpec, folder: str | Path) -> None:
    """Write a folder to share: SAELens's two files, this library's two, and README.md, the card, last.

    `metrics`: metrics.json; `spec`: the model that it was trained on.
    """
    folder = Path(folder)
    export_saelens(sae, folder)
    sae.save(folder)
    with atomic(folder / "README.md") as part:
        part.write_text(card(sae, metrics, spec, folder.name), encoding="utf-8")
