"""The types of the configuration's sections say what the schema says."""

from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints, is_typeddict

from antibody_sae import config, sections

PLAIN = {"string": str, "integer": int, "number": float, "boolean": bool, "null": NoneType}
SETTLED = {"whole"}
"""Keys that are no user's: settle_metadata gives them to a column."""


def alternatives(hint):
    return set(get_args(hint)) if get_origin(hint) in (Union, UnionType) else {hint}


def named(schema):
    """(plain types, schemas of the arrays and objects) of what a part of the schema allows."""
    schema = config._resolve(schema)
    values = schema.get("enum", [schema["const"]] if "const" in schema else [])
    plain, composed = {type(value) for value in values}, []
    for part in schema.get("oneOf", []):
        more, deeper = named(part)
        plain, composed = plain | more, composed + deeper
    kinds = schema.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds:
        if kind in PLAIN:
            plain.add(PLAIN[kind])
        else:
            composed.append({**schema, "type": kind})
    return plain, composed


def mistakes(schema, hint, place):
    plain, composed = named(schema)
    hints = alternatives(hint)
    deep = {h for h in hints if is_typeddict(h) or get_origin(h) in (list, dict)}
    if hints - deep != plain:
        yield f"{place}: {hints - deep}, the schema {plain}"
    if len(deep) != len(composed):
        yield f"{place}: {deep}, the schema {[part['type'] for part in composed]}"
    for part in composed:
        for one in [h for h in deep if (get_origin(h) is list) == (part["type"] == "array")]:
            if part["type"] == "array":
                yield from mistakes(part["items"], get_args(one)[0], f"{place}[]")
            elif is_typeddict(one):
                own = get_type_hints(one)
                if own.keys() - SETTLED != part["properties"].keys():
                    yield f"{place}: {own.keys() ^ part['properties'].keys()}"
                for key in own.keys() & part["properties"].keys():
                    yield from mistakes(part["properties"][key], own[key], f"{place}.{key}")
            else:
                for key, value in {**part.get("properties", {}), "*": part["additionalProperties"]}.items():
                    if value is not False:
                        yield from mistakes(value, get_args(one)[1], f"{place}.{key}")


def test_the_types_are_the_schemas():
    assert list(mistakes(config._schema(), sections.Config, "config")) == []


def test_a_key_of_another_type_is_found():
    schema = config._schema()
    part = schema["properties"]["splits"]
    other = {**part, "properties": {**part["properties"], "seed": {"type": "string"}, "more": {"type": "integer"}}}
    found = list(
        mistakes({**schema, "properties": {**schema["properties"], "splits": other}}, sections.Config, "config")
    )
    assert len(found) == 2
    assert all(message.startswith("config.splits") for message in found)
