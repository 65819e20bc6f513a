"""Types of the configuration's sections, for the type checker; config.schema.yaml says what each key means.

A test holds them against the schema, key by key. They are those of a complete configuration (`config.complete`), in
which every key with a default is there; a rule hands a function the keys that it reads (`pick` in common.smk). Import
them under `if TYPE_CHECKING`, so that an edit here reruns nothing.
"""

from __future__ import annotations

from typing import NotRequired, Required, TypedDict


class Template(TypedDict, total=False):
    H: str
    L: str
    HL: str


class ModelSection(TypedDict, total=False):
    name: Required[str]
    path: str | None
    template: Template | None
    dtype: str
    device: str
    revision: str | None
    remote_code: bool


class DrawnModel(ModelSection):
    """`presets.drawn`: the same model with its weights drawn anew."""

    drawn: int


class Columns(TypedDict, total=False):
    id: str | None
    heavy: str | None
    light: str | None
    sequence: str | None
    species: str | None
    locus: str | None
    cell: str | None
    sample: str | None
    molecules: str | None


class Sampling(TypedDict):
    """How a model is asked to write."""

    chains: str
    species: str
    temperature: float
    top_p: float
    prompt: str
    complete: bool


class SequencesSection(Sampling):
    source: str
    n: int
    seed: int
    drop_lowest_likelihood: float
    paths: list[str]
    format: str
    columns: Columns
    metadata: list[str] | None
    pair_pattern: str
    join: str | None
    translate: bool
    min_length: int
    max_length: int
    chunks: int


class Writing(Sampling):
    """What a steered model is asked to write."""

    max_residues: NotRequired[int]
    """Where a part of a chain is written: residues at most."""


class NumberingSection(TypedDict):
    scheme: str
    species: list[str]
    chunks: NotRequired[int]
    """Only the workflow reads it."""


class SplitsSection(TypedDict):
    identity: float
    validation: float
    test: float
    seed: int


class ActivationsSection(TypedDict):
    layers: list[int]
    shards: int
    dtype: str
    max_tokens: int | None


class SAESection(TypedDict, total=False):
    """Settings of one SAE; `config.saes` fills in the keys that the user does not give."""

    architecture: str
    activation: str
    latents: int
    k: int
    tokens: int
    random_model: bool
    batch_size: int
    learning_rate: float
    warmup: float
    decay: float
    k_start: int | None
    k_warmup: float
    law: str
    exponent: float
    full_mass: float
    groups: int
    sort_every: int | None
    sweep: float
    bandwidth: float
    aux_k: int
    aux_weight: float
    dead_after: int
    pre_bias: str
    loss: str
    encoder_dtype: str
    checkpoint_seconds: float


class NamedSAE(SAESection, total=False):
    """An entry of saes.train, or what all share."""

    load: str | None
    seeds: list[int] | None
    layers: list[int] | None


class SAEsSection(TypedDict):
    seeds: list[int]
    threads: int
    shared: NamedSAE
    train: dict[str, NamedSAE]


class MetadataColumn(TypedDict, total=False):
    """A column of the input that becomes concepts."""

    bins: list[float]
    split: str
    whole: bool
    """Whether all its numbers are whole; `labelling.settle_metadata` says."""


class ConceptsSection(TypedDict):
    metadata: dict[str, MetadataColumn | None]
    bins: dict[str, list[float]]
    position_pairs: int
    min_clusters: int
    thresholds: list[float]
    floor: float
    q: float
    bootstrap: int
    seed: int


class LabelSections(TypedDict):
    """The sections by which new sequences are numbered and labelled."""

    numbering: NumberingSection
    concepts: ConceptsSection


class WritingSections(LabelSections):
    """Those by which they are written, too."""

    writing: Writing


Span = TypedDict("Span", {"from": int, "to": int}, total=False)


class SteeringSection(TypedDict):
    targets: str | list[str]
    criteria: list[str]
    candidates: int
    norms: list[float]
    explore_n: int
    where: str | Span
    n: int
    baseline: int
    random_latents: int
    random_n: int
    scored: int
    gradient_antibodies: int
    levers: list[str]
    lever_sizes: list[int]
    lever_trained: list[int]
    lever_signs: str
    lever_length: float
    lever_rounds: int
    perplexity_bound: float
    ablation: int
    alternatives: list[str]
    seed: int
    chunks: int


TransferSection = TypedDict("TransferSection", {"from": str | None})  # from is no name that a class could hold


class ReportSection(TypedDict):
    examples: int


class ParentSection(TypedDict):
    heavy: str | None
    light: str | None
    rewrite: list[str]
    by: str


class Partner(TypedDict):
    name: str
    sequence: str


class ConstraintsSection(TypedDict):
    complete: bool
    conserved: bool
    distinct: bool
    max_perplexity: float | None
    min_humanness: float | None
    liabilities: dict[str, str | list[str]]
    rates: dict[str, list[float]]
    min_training_distance: int
    min_distance: int


DesignSection = TypedDict(
    "DesignSection",
    {
        "concepts": dict[str, str],
        "lever": str,
        "length": float | None,
        "latents": dict[str, float],
        "selected_by": str | None,
        "sae": str | None,
        "sae_seed": int | None,
        "layer": int | None,
        "method": str,
        "where": str | Span,
        "from": ParentSection | None,
        "n": int,
        "seed": int,
        "judges": list[str],
        "partner": Partner,
        "pick": int,
        "baseline": int,
        "natural": list[str],
        "constraints": ConstraintsSection,
    },
)


class Config(TypedDict):
    """A complete configuration."""

    run: str
    model: ModelSection
    sequences: SequencesSection
    numbering: NumberingSection
    splits: SplitsSection
    activations: ActivationsSection
    saes: SAEsSection
    concepts: ConceptsSection
    steering: SteeringSection
    transfer: TransferSection
    report: ReportSection
    designs: dict[str, DesignSection]
