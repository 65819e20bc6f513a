# Stage 8: the headline figures and the page. Both read every stage's tables and change none.
import hashlib

REPORTED = {section: values for section, values in config.items() if section != "designs"}
TEMPLATES = [
    HERE / "workflow" / "report" / name for name in ("index.html.j2", "report.css", "report.js", "letters.json")
]


rule tables:
    input:
        sequences=f"{OUT}/sequences/summary.json",
        chains=f"{OUT}/numbering/chains.parquet",
        numbering=f"{OUT}/numbering/summary.json",
        splits=f"{OUT}/splits/antibodies.parquet",
        manifests=expand(f"{OUT}/activations/layer{{layer}}/manifest.json", layer=LAYERS),
        metrics=expand(f"{OUT}/saes/{{sae}}/metrics.json", sae=EVERY_SAE),
        loaded=expand(f"{OUT}/saes/{{sae}}/config.json", sae=EVERY_LOADED),
        best=expand(f"{OUT}/concepts/{{sae}}/best.parquet", sae=EVERY_SAE),
        effects=every_steered("effects.parquet"),
        concepts=rules.concept_tables.output,
        steering=rules.steer_tables.output,
    output:
        summary=f"{OUT}/tables/summary.json",
        saes=report(
            f"{OUT}/tables/saes.csv",
            category="Tables",
            labels={"table": "SAEs side by side"},
            caption="../report/saes.rst",
        ),
    log:
        f"{OUT}/logs/tables.log",
    benchmark:
        f"{OUT}/benchmarks/tables.tsv"
    localrule: True  # a second's work on small tables, whatever the run's size: not worth a place in a queue
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=minutes(10),
    params:
        config=REPORTED,
        code=code("tables.py"),
    script:
        "../scripts/tables.py"


rule natural_vs_written:
    input:
        antibodies=f"{OUT}/sequences/antibodies.parquet",
        chains=f"{OUT}/numbering/chains.parquet",
        splits=f"{OUT}/splits/antibodies.parquet",
        plans=expand(f"{OUT}/steering/layer{{layer}}/controls/explore/plan.parquet", layer=STEERED_LAYERS),
        outcomes=expand(f"{OUT}/steering/layer{{layer}}/controls/explore/outcomes.parquet", layer=STEERED_LAYERS),
    output:
        report(
            f"{OUT}/tables/natural_vs_written.csv",
            category="Tables",
            labels={"table": "Natural and written"},
            caption="../report/natural.rst",
        ),
    log:
        f"{OUT}/logs/natural_vs_written.log",
    benchmark:
        f"{OUT}/benchmarks/natural_vs_written.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(1500, 10),
        runtime=minutes(30),
    params:
        bins=config["concepts"]["bins"],
        code=code("natural_vs_written.py"),
    script:
        "../scripts/natural_vs_written.py"


rule report:
    input:
        nature=[] if GENERATE else rules.natural_vs_written.output,
        transfer=rules.transfer_tables.output if OTHER else [],
        lineages=rules.lineage_table.output if config["concepts"]["metadata"] else [],
        summary=rules.tables.output.summary,
        sequences=f"{OUT}/sequences/antibodies.parquet",
        residues=f"{OUT}/numbering/residues.parquet",
        labels=f"{OUT}/concepts/labels.json",
        history=expand(f"{OUT}/saes/{{sae}}/history.parquet", sae=[sae for sae in EVERY_SAE if sae not in EVERY_LOADED]),
        loaded=expand(f"{OUT}/saes/{{sae}}/config.json", sae=EVERY_LOADED),
        weights=expand(f"{OUT}/saes/{{sae}}/sae.safetensors", sae=EVERY_SAE),
        stability=expand(f"{OUT}/saes/{{sae}}-stability.json", sae=SEVERAL),
        dictionaries=rules.dictionary_tables.output,
        associations=expand(f"{OUT}/concepts/{{sae}}/associations.parquet", sae=EVERY_SAE),
        latents=expand(f"{OUT}/latents/{{sae}}.parquet", sae=EVERY_SAE),
        side_effects=every_steered("side_effects.parquet"),
        outcomes=every_steered("confirm/outcomes.parquet"),
        controls=expand(
            f"{OUT}/steering/layer{{layer}}/controls/explore/{{file}}.parquet",
            layer=STEERED_LAYERS,
            file=["plan", "outcomes"],
        ),
        directions=expand(f"{OUT}/steering/layer{{layer}}/controls/confirm/outcomes.parquet", layer=STEERED_LAYERS),
        doses=expand(f"{OUT}/steering/layer{{layer}}/doses.parquet", layer=STEERED_LAYERS),
        levers=expand(
            f"{OUT}/steering/layer{{layer}}/levers/{{file}}.parquet",
            layer=STEERED_LAYERS,
            file=["control_map", "reliability", "training"],
        ),
        sparse=[every_steered(f"{file}.parquet") for file in FEW],
        fitted=every_steered("trained_levers-history.parquet") if STEERING["lever_trained"] else [],
        ablation=f"{OUT}/tables/ablation.csv" if STEERING["ablation"] else [],
        alternatives=(f"{OUT}/tables/alternatives.csv" if STEERING["alternatives"] else []),
        libraries=expand(f"{OUT}/designs/{{design}}/page.json", design=config["designs"]),
    output:
        page=report(
            f"{OUT}/report/index.html",
            category="Report",
            labels={"page": "The whole report"},
            caption="../report/page.rst",
        ),
        figures=report(
            directory(f"{OUT}/report/figures"),
            patterns=["{figure}.svg"],
            category="Figures",
            labels={"figure": "{figure}"},
            caption="../report/figure.rst",
        ),
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    conda:
        "../../envs/environment.yaml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=minutes(30),
    params:
        config={**REPORTED, "designs": list(config["designs"])},
        templates=hashlib.sha256(b"".join(path.read_bytes() for path in TEMPLATES)).hexdigest()[:16],
        code=code("report.py"),
    script:
        "../scripts/report.py"
