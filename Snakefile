# antibody-sae: generate or load antibodies, number them, harvest a language model, train SAEs, associate, steer, report.
import json
import os
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

HERE = Path(workflow.current_basedir)  # this file's folder, also where another workflow imports this one as a module
sys.path.insert(0, str(HERE / "workflow" / "lib"))
os.environ |= {
    "PYTHONPATH": os.pathsep.join([str(HERE / "workflow" / "lib"), *filter(None, [os.getenv("PYTHONPATH")])]),
    # the kernels are compiled once for all jobs, in a folder that is writable wherever a run is
    "NUMBA_CACHE_DIR": os.getenv("NUMBA_CACHE_DIR") or str(Path(".snakemake", "numba").resolve()),
    # pages of 2 MB where Linux gives them to who asks (torch, and glibc's malloc): a first touch costs a sixth
    "THP_MEM_ALLOC_ENABLE": os.getenv("THP_MEM_ALLOC_ENABLE") or "1",
    "GLIBC_TUNABLES": os.getenv("GLIBC_TUNABLES") or "glibc.malloc.hugetlb=1",
}

from antibody_sae import config as settings
from antibody_sae import source
from antibody_sae.concepts import abroad
from antibody_sae.io import InputError
from antibody_sae.models import presets
from antibody_sae.sae import checkpoints, prefixes


configfile: HERE / "config.yaml"


try:
    config = settings.complete(config)
except InputError as error:
    raise WorkflowError(str(error))


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/sequences.smk"
include: "workflow/rules/numbering.smk"
include: "workflow/rules/splits.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/concepts.smk"
include: "workflow/rules/steering.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/designs.smk"


onstart:
    # what the run will take, measured here; too little disk ends it before any job (a cluster has jobs, not cores)
    side_by_side = workflow.resource_settings.cores or workflow.resource_settings.nodes or 1
    done = subprocess.run(
        [sys.executable, HERE / "workflow" / "scripts" / "preflight.py", str(side_by_side), OUT],
        input=json.dumps(config),
        text=True,
    )
    if done.returncode:
        raise WorkflowError("preflight: see the message above")


rule all:
    default_target: True
    input:
        f"{OUT}/report/index.html",
        rules.designs.input,
