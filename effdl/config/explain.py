"""What may be set: every key of a choice with its default, what it takes, and what its class says of it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from effdl.config.composition import instead
from effdl.config.groups import CONFIGS, GROUPS, about, choices, config_file, default_choices, holder
from effdl.config.parts import composed
from effdl.config.spec import build_choice, locate
from effdl.errors import ConfigError

Told = dict[str, Any]
BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
NAMED = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}


def explain(asked: Sequence[str]) -> list[Told]:
    """Of each choice asked for (method=dll) all keys; of a key (method.epochs) that one, in the choice that is asked for beside
    it or else in the default.

    Returns:
        {"choice", "about", "keys": [{"key", "default", "takes", "says"}]} of each choice.

    Raises:
        ConfigError: there is no such choice or key.
    """
    chosen = {group: name for group, _, name in (one.partition("=") for one in asked) if group in GROUPS and name}
    found: dict[str, Told] = {}
    for one in asked:
        before, _, after = one.partition("=")
        group, key = (before, None) if after and before in GROUPS else _of_key(before)
        name = (after if key is None else chosen.get(group) or default_choices()[group]) if group else ""
        told = _root() if not group else _choice(group, name)
        if key is not None:
            told = {**told, "keys": [row for row in told["keys"] if row["key"] == key]}
            if not told["keys"]:
                raise ConfigError(f"{one}: {_elsewhere(group, key, name)}")
        into = found.setdefault(told["choice"], {**told, "keys": []})
        into["keys"] += [row for row in told["keys"] if row not in into["keys"]]
    return list(found.values())


def text(told: Sequence[Told], width: int) -> str:
    """What `explain` found, as tables for people."""
    parts = []
    for one in told:
        rows = [
            ("key", "default", "takes", ""),
            *((row["key"], row["default"], row["takes"], row["says"]) for row in one["keys"]),
        ]
        widths = [min(max(len(row[i]) for row in rows), most) for i, most in enumerate((40, 24, 44))]
        lines = [f"{one['choice']}: {one['about']}" if one["about"] else one["choice"]]
        for row in rows if one["keys"] else []:
            head = "  " + "  ".join(cell.ljust(w) for cell, w in zip(row[:3], widths, strict=True)) + "  "
            room = width - len(head)
            wrapped = textwrap.wrap(row[3], room) if room >= 30 else []
            lines.append((head + (wrapped[0] if wrapped else "")).rstrip())
            lines += [" " * len(head) + more for more in wrapped[1:]]
            if row[3] and room < 30:
                lines += textwrap.wrap(row[3], width, initial_indent=" " * 6, subsequent_indent=" " * 6)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _of_key(one: str) -> tuple[str, str]:
    """The group and the whole name of a key; "" where it is of the root."""
    if one in GROUPS:
        raise ConfigError(f"{one}: say which, as {one}={choices(one)[0]}; there are {', '.join(choices(one))}")
    parents = one.split(".")[:-1]
    for length in range(len(parents), 0, -1):
        if (group := "/".join(parents[:length])) in GROUPS:
            return group, one
    return "", one


def _elsewhere(group: str, key: str, name: str) -> str:
    """Which choices have a key that the asked one has not."""
    last = key.rpartition(".")[2]
    having = [one for one in choices(group) if re.search(rf"^{last}:", _lines(group, one), re.MULTILINE)] if group else []
    if having:
        return f"not of {group}={name}; {', '.join(f'{group}={one}' for one in having)} has it"
    return f"unknown key; {instead(key, [f'{group}={name}'] if group and '/' not in group else [])}"


def _root() -> Told:
    """The keys outside of all groups, as config.yaml describes them."""
    found = re.findall(r"^(\w+): (\S+)(?: # (.*))?$", (CONFIGS / "config.yaml").read_text(), re.MULTILINE)
    keys = [{"key": key, "default": default, "takes": "", "says": says} for key, default, says in found if key != "hydra"]
    return {"choice": "of the run", "about": "", "keys": keys}


def _choice(group: str, name: str) -> Told:
    head = {"choice": f"{group}={name}", "about": about(group, name)}
    build_choice(group, name)  # or an error that says what there is
    parent = [f"{group.split('/')[0]}={holder(group)[0]}"] if "/" in group else []
    node: Any = composed([*parent, f"{group}={name}"])
    for part in group.split("/"):
        node = node[part]
    if isinstance(node, Mapping) and "_target_" not in node:  # of a group of which several may be chosen
        node = node.get(name)
    dotted = group.replace("/", ".")
    return {**head, "keys": [] if node is None else list(_keys(node, group, name, dotted))}


def _keys(node: Mapping[str, Any], group: str, name: str, dotted: str) -> Iterator[dict[str, str]]:
    cls = locate(str(node["_target_"]), dotted)
    hints, names = get_type_hints(cls, include_extras=True), [field.name for field in fields(cls)]
    for key in names:
        default, inner = node.get(key), f"{group}/{key}"
        takes = f"a choice: {inner}={'|'.join(choices(inner))}" if inner in GROUPS else _takes(hints[key])
        shown = _chosen(default) if inner in GROUPS else _shown(default)
        yield {
            "key": f"{dotted}.{key}",
            "default": shown,
            "takes": takes,
            "says": _says(cls, key, names) or _remark(group, name, key),
        }


def _chosen(node: Any) -> str:
    return "none" if node is None else re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(node["_target_"]).rpartition(".")[2]).lower()


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(_shown, value))}]" if isinstance(value, list | tuple) else str(value)


def _takes(hint: Any) -> str:
    try:
        return _in_words(TypeAdapter(hint).json_schema())
    except Exception:  # a class of a plugin's own
        return str(getattr(hint, "__name__", hint))


def _in_words(schema: Mapping[str, Any]) -> str:
    """A type and its range, of JSON Schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_in_words(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return " | ".join(_shown(one) for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        each = [_in_words(one) for one in schema.get("prefixItems", [])]
        few = f", at least {schema['minItems']}" if schema.get("minItems") and not each else ""
        return f"[{', '.join(each)}]" if each else f"list of: {_in_words(schema.get('items', {}))}{few}"
    bounds = [words.format(f"{schema[name]:g}") for name, words in BOUNDS.items() if name in schema]
    return " ".join([NAMED.get(str(schema.get("type")), "anything"), *bounds])


def _says(cls: type, key: str, names: Sequence[str]) -> str:
    """What the docstring of a class, or of one that it extends, says of a field: `key: ...` or `key, other: ...`."""
    for base in cls.__mro__:
        for paragraph in re.split(r"\n\s*\n", base.__dict__.get("__doc__") or ""):
            flat = re.sub(r"\n\s+", "\n", paragraph)
            found = re.finditer(r"(?:(?<=[.;:)] )|^ *)(\w+(?:, \w+)*): ", flat, re.MULTILINE)
            heads = [one for one in found if set(one[1].split(", ")) <= set(names)]
            for one, following in zip(heads, [*heads, None][1:], strict=True):
                if key in one[1].split(", "):
                    said = " ".join(flat[one.end() : following.start() if following else None].split())
                    return said.rstrip(" ;.")
    return ""


def _remark(group: str, name: str, key: str) -> str:
    """The comment beside a key in the YAML of its choice."""
    found = re.search(rf"^{key}:[^#\n]*# (.*)$", _lines(group, name), re.MULTILINE)
    return found[1] if found else ""


def _lines(group: str, name: str) -> str:
    return config_file(group, name).read_text()
