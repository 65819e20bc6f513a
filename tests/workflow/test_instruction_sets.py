"""The run on a processor without AVX-512 and bfloat16, whatever this one is."""

import pytest
from antibody_sae import hardware
from harness import AVX2, Run, environment


@pytest.mark.slow
@pytest.mark.skipif(hardware.instruction_set() == "AVX2", reason="this processor knows no more: all other tests are it")
def test_the_tiny_run_on_avx2(tmp_path):
    """Preflight measures in float32, as the run then computes; every stage ends."""
    config = tmp_path / "auto.yaml"
    config.write_text((Run(tmp_path).config).read_text().replace("  dtype: float32\n", ""))
    run = Run(tmp_path, config=config, environment={**environment(), **AVX2})
    said = run.local()
    assert "in float32 on AVX2" in said
    assert (run.results / "report" / "index.html").is_file()
    manifest = (run.results / "activations" / "layer2" / "manifest.json").read_text()
    assert '"model_dtype": "float32"' in manifest
