"""The vocabulary of species: databases' words, numbering's profiles, models' tags."""

import pytest
from antibody_sae import species
from antibody_sae.models.presets import PRESETS


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Homo sapiens (human)", "human"), ("HUMAN", "human"), ("Homsap", "human"), ("NCBITAXON:9606", "human"),
        ("Mus musculus (house mouse)", "mouse"), ("Mus musculus", "mouse"), ("mouse_C57BL/6", "mouse"),
        ("mouse_BALB/c", "mouse"), ("Mus musculus domesticus", "mouse"), ("Rattus norvegicus (Norway rat)", "rat"),
        ("rat_SD", "rat"), ("Oryctolagus cuniculus", "rabbit"), ("Macaca mulatta (rhesus macaque)", "rhesus"),
        ("Sus scrofa (pig)", "pig"), ("Bos taurus", "cow"), ("Vicugna pacos (alpaca)", "alpaca"),
        ("Lama pacos", "alpaca"), ("Lama glama (llama)", "llama"), ("llama", "llama"),
        ("Camelus dromedarius", "camel"), ("Camelus sp.", "camelid"), ("camelid", "camelid"),
    ],
)  # fmt: skip
def test_words_of_databases(text, name):
    assert species.canonical(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "Gallus gallus", "chicken", "Homo", "humanized mouse", "HIS-mouse", "Homo sapiens; Mus musculus",
        "Mus musculus (transgenic)", "guinea pig", "Cavia porcellus (guinea pig)", "Peromyscus (deer mouse)",
        "Macaca fascicularis", "synthetic construct", "human/mouse chimera", "ratel", "123",
    ],
)  # fmt: skip
def test_what_is_not_known_is_never_a_default(text):
    assert species.canonical(text) is None


def test_every_name_is_its_own_word_and_has_a_tag_or_none():
    offered = PRESETS["iglm"]["species"]
    assert all(species.canonical(name) == name for name in species.NAMES)
    assert all(species.canonical(word) == word for word in offered)
    assert {name: species.tag(name, offered) for name in species.NAMES} == {
        "human": "human", "mouse": "mouse", "rat": "rat", "rabbit": "rabbit", "rhesus": "rhesus", "pig": None,
        "cow": None, "alpaca": "camel", "llama": "camel", "camel": "camel", "camelid": "camel",
    }  # fmt: skip
    assert species.tag("camel", ["alpaca", "human"]) == "alpaca"  # a model of one's own may use another word
