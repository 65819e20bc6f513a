#!/usr/bin/env python3
"""Submit one of Snakemake's job scripts as a Kubernetes Job on a shared volume; prints the Job's name."""

import argparse
import json
import os
import subprocess


def manifest(options: argparse.Namespace, folder: str) -> dict:
    """The Job: one pod, never restarted by Kubernetes, since Snakemake retries with more memory."""
    limits = {"memory": f"{options.memory_mb}M", **({"nvidia.com/gpu": options.gpu} if options.gpu else {})}
    container = {
        "name": "job",
        "image": options.image,
        "command": ["/bin/sh", options.script],
        "workingDir": folder,
        "resources": {"requests": {"cpu": options.cpu, **limits}, "limits": limits},
        "volumeMounts": [{"name": "shared", "mountPath": options.mount}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": options.claim}}],
        "terminationGracePeriodSeconds": 60,  # SIGTERM, then time for training to write its checkpoint
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"sae-{options.rule.replace('_', '-')}-", "labels": {"app": "antibody-sae"}},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 60 * options.minutes,
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {"spec": pod},
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--image", "--claim", "--mount", "--rule"):
        parser.add_argument(name, required=True)
    for name in ("--cpu", "--memory-mb", "--minutes", "--gpu"):
        parser.add_argument(name, required=True, type=int)
    parser.add_argument("script", help="added by Snakemake")
    job = json.dumps(manifest(parser.parse_args(), os.getcwd()))
    command = ["kubectl", "create", "-f", "-", "-o", "jsonpath={.metadata.name}"]
    print(subprocess.run(command, input=job, text=True, check=True, stdout=subprocess.PIPE).stdout)
