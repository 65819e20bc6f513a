"""Write docs/configuration.md from the schema: python docs/configuration.py > docs/configuration.md."""

from pathlib import Path
from typing import Any

import yaml

SCHEMA = yaml.safe_load((Path(__file__).parents[1] / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
HEAD = """# Configuration

Every key, its values, its default and what it means. Any may be left out
of `config.yaml` and of your own file (`make run CONFIG=my.yaml`). Made from the schema,
`workflow/schemas/config.schema.yaml` by `python docs/configuration.py`.
"""


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """A node with what it refers to."""
    return {**SCHEMA["$defs"].get(node.get("$ref", "").rpartition("/")[2], {}), **node}


def values(node: dict[str, Any]) -> str:
    """What a key may hold, in words."""
    if "then" in node:
        return f"null, {values(resolved(node['then']))}"
    if "oneOf" in node:
        return " or ".join(str(part["const"]) if "const" in part else values(resolved(part)) for part in node["oneOf"])
    if "enum" in node:
        return ", ".join("null" if value is None else str(value) for value in node["enum"])
    if "enum" in (items := resolved(node.get("items", {}))):
        return f"list of {', '.join(items['enum'])}"
    kinds = " or ".join([node["type"]] if isinstance(node.get("type"), str) else node.get("type", []))
    limits = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    return ", ".join([kinds, *(f"{words} {node[key]:g}" for key, words in limits if key in node)]).strip(", ")


def rows(node: dict[str, Any], path: str = "") -> list[str]:
    """A table's rows for the keys of a section and, indented by their path, those inside them."""
    found = []
    for key, entry in node.get("properties", {}).items():
        entry = resolved(entry)
        inner = [] if "$ref" in entry and "properties" in entry else rows(entry, f"{path}{key}.")
        default = (
            "" if "default" not in entry or inner else f"`{yaml.safe_dump(entry['default'], default_flow_style=True)}`"
        )
        cells = [
            f"`{path}{key}`",
            values(entry),
            default.replace("\n...\n", "").replace("\n", ""),
            entry["description"],
        ]
        found += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", *inner]
    return found


print(HEAD)
sections = {
    **SCHEMA["properties"],
    "saes.train.<name>": SCHEMA["$defs"]["sae"],
    "designs.<name>": SCHEMA["$defs"]["design"],
}
sections["saes.train.<name>"] |= {"description": "Settings of one SAE; those of `saes.shared` are the defaults."}
sections["designs.<name>"] |= {"description": "One steered library; it needs `concept` or `latents`."}
print("## run", f"{SCHEMA['properties']['run']['description']} Default `default`.", sep="\n\n")
for name, section in sections.items():
    if "properties" in section:
        table = ["| key | values | default | meaning |", "| --- | --- | --- | --- |", *rows(section)]
        print(f"\n## {name}\n", section["description"], "", *table, sep="\n")
