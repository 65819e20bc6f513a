# antibody-sae: generate or load antibodies, number them, harvest a language model, train SAEs, associate, steer, report.
import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

HERE = Path(workflow.basedir)
sys.path.insert(0, str(HERE / "workflow" / "lib"))
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(HERE / "workflow" / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from antibody_sae import config as settings
from antibody_sae.io import InputError


configfile: HERE / "config.yaml"


try:
    config = settings.complete(config)
except InputError as error:
    raise WorkflowError(str(error))


include: "workflow/rules/common.smk"
include: "workflow/rules/sequences.smk"
include: "workflow/rules/numbering.smk"
include: "workflow/rules/splits.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/saes.smk"
include: "workflow/rules/concepts.smk"
include: "workflow/rules/steering.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{OUT}/report/index.html",
