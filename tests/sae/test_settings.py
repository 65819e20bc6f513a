"""An SAE's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from antibody_sae.io import InputError
from antibody_sae.sae import settings as training_settings
from antibody_sae.sae.settings import Settings


def test_bad_settings_say_what_to_change():
    with pytest.raises(InputError, match="k 49 > latents 48"):
        Settings(latents=48, k=49)
    with pytest.raises(InputError, match="law 'flat' is none of zipf"):
        Settings(law="flat")
    with pytest.raises(InputError, match="lower groups"):
        Settings(architecture="matryoshka", latents=8, k=2)
    with pytest.raises(InputError, match="unknown key 'lr'"):
        training_settings.settings_from({"lr": 1})


def test_schema_and_settings_have_the_same_keys():
    schema = yaml.safe_load((Path(__file__).parents[2] / "workflow/schemas/config.schema.yaml").read_text())
    assert set(schema["$defs"]["sae"]["properties"]) - {"seeds", "layers", "load"} == set(Settings.__dataclass_fields__)
