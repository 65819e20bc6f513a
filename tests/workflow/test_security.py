"""Nothing is unpickled, no foreign code runs, no name leaves the run's folder, no shell sees data."""

import ast
import os
import pickle
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from antibody_sae import config, io
from antibody_sae.activations import Store
from antibody_sae.sae.model import SAE
from harness import ROOT, environment

FORBIDDEN = {  # calls that run what they are given
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "pickle.Unpickler",
    "joblib.load", "dill.load", "cloudpickle.load", "marshal.loads", "shelve.open", "torch.jit.load", "yaml.load",
    "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "tempfile.mktemp",
}  # fmt: skip
HOSTILE = [
    "../../etc", "..", ".", "/etc", "a/b", "a\\b", "~root", "$(touch pwned)", "`touch pwned`", "a; touch pwned", "-rf",
    "", "a b", "{wildcards}", "x\0y", "<script>", "%2e%2e",
]  # fmt: skip


def sources():
    """Every Python file of the workflow, and its rules as far as they are Python."""
    yield from sorted((ROOT / "workflow").rglob("*.py"))
    yield from sorted((ROOT / "envs").glob("*.py"))


def calls(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node.lineno


def test_no_call_runs_what_it_is_given():
    seen = set()
    for path in sources():
        for name, keywords, line in calls(path):
            place = f"{path.relative_to(ROOT)}:{line}"
            seen.add(name)
            assert name not in FORBIDDEN, f"{place}: {name}"
            assert keywords.get("shell", "False") == "False", f"{place}: a shell"
            assert keywords.get("allow_pickle", "False") == "False", f"{place}: allow_pickle"
            if name in {"np.load", "numpy.load"}:
                assert keywords.get("allow_pickle") == "False", f"{place}: say allow_pickle=False"
            if name.endswith("torch.load"):
                assert path.name in {"model.py", "judges.py", "loading.py"}, f"{place}: weights that come so, only"
                assert keywords.get("weights_only") == "True", f"{place}: weights_only"
    assert "torch.load" in seen, "the search sees calls"
    assert "yaml.safe_load" in seen


def test_remote_code_is_run_only_where_the_configuration_says_so():
    for path in sources():
        for line in path.read_text(encoding="utf-8").splitlines():
            if "trust_remote_code" in line:
                assert '"trust_remote_code": spec.remote_code' in line, f"{path}: {line}"
    assert config.complete({})["model"]["remote_code"] is False


@pytest.mark.parametrize("rules", sorted((ROOT / "workflow" / "rules").glob("*.smk")), ids=lambda path: path.name)
def test_rules_use_no_shell(rules):
    """Scripts get their arguments as data. A shell command would have to quote each of them ({input:q})."""
    text = rules.read_text()
    for command in re.findall(r"^\s*shell:\s*((?:.*\n)+?)\s*\n", text, flags=re.M):
        assert not re.search(r"\{(?!\{)[^{}]*(?<!:q)\}", command), f"unquoted in {command}"
    assert "os.system" not in text


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["run", "sae", "design", "model"])
def test_names_in_a_configuration_cannot_leave_the_run(name, where):
    changes = {
        "run": {"run": name},
        "sae": {"saes": {"train": {name: {"architecture": "topk"}}}},
        "design": {"designs": {name: {"concepts": {"j-gene=IGHJ4": "high"}}}},
        "model": {"model": {"name": name}},
    }
    with pytest.raises(io.InputError, match=r"config|model"):
        config.complete(changes[where])


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_data_cannot_leave_a_folder(name, tmp_path):
    with pytest.raises(io.InputError, match="names are letters"):
        io.inside(tmp_path, name)


def test_a_hostile_configuration_runs_nothing(tmp_path):
    """YAML that would build Python objects, and values that a shell would run, through Snakemake itself."""
    (tmp_path / "tag.yaml").write_text(f'run: !!python/object/apply:os.system ["touch {tmp_path}/pwned"]\n')
    value = f"$(touch {tmp_path}/pwned)`touch {tmp_path}/pwned`"
    (tmp_path / "value.yaml").write_text(yaml.safe_dump({"run": value, "sequences": {"paths": [value]}}))
    for file in ("tag.yaml", "value.yaml"):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "-s", ROOT / "Snakefile", "-d", tmp_path, "--configfile", file],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode != 0
    assert not (tmp_path / "pwned").exists()


class Code:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("file", ["manifest.json", "shard-0.safetensors", "sae.safetensors", "table.parquet"])
def test_a_pickle_in_place_of_a_file_is_refused_and_not_run(file, tmp_path):
    path = tmp_path / file
    path.write_bytes(pickle.dumps(Code(f"touch {shlex.quote(str(tmp_path / 'pwned'))}")))
    readers = {
        "manifest.json": lambda: Store(tmp_path),
        "shard-0.safetensors": lambda: io.read_safetensors(path),
        "sae.safetensors": lambda: io.read_safetensors(path),
        "table.parquet": lambda: io.read_parquet(path),
    }
    with pytest.raises(io.InputError, match=re.escape(file)):
        readers[file]()
    if file == "sae.safetensors":
        io.write_json({"format": 1, "sha256": io.sha256_file(path)}, tmp_path / "config.json")
        with pytest.raises(io.InputError):
            SAE.load(tmp_path)
    assert not (tmp_path / "pwned").exists()
