"""`staddle plugin`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

import json
from typing import Annotated, get_args, get_origin

import click
import msgspec

from staddle.api.media import MediaType
from staddle.cli.output import table
from staddle.errors import PluginError
from staddle.plugins import PluginRegistry, declared


@click.group()
def plugin() -> None:
    """Plugins: what is installed, what they provide, and what is wrong with them."""


@plugin.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_plugins(as_json: bool) -> None:
    """List plugins without importing any; broken ones are named by `staddle doctor`."""
    infos = PluginRegistry().all()
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(info) for info in infos]))
        return
    table(
        ["plugin", "distribution", "version", "module"],
        [[i.name, i.distribution, i.version, i.module] for i in infos],
    )


@plugin.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def show(name: str, as_json: bool) -> None:
    """Show what a plugin provides, its options and capabilities."""
    registry = PluginRegistry()
    documents = []
    for kind in registry.types(name):
        document: dict[str, object] = {"family": type(kind).__name__.removesuffix("Type").lower()}
        document |= {"name": getattr(kind, "name", "") or getattr(kind, "scheme", "")}
        document |= {"version": kind.version, "api_version": kind.api_version, "summary": kind.summary}
        config_type = getattr(kind, "config_type", None)
        if config_type is not None:
            document["options"] = {f.encode_name: _type_text(f) for f in msgspec.structs.fields(config_type)}
        if isinstance(kind, MediaType):
            document["durability"] = kind.durability.value
            document["capabilities"] = [f"{c.name} ({c.surety.value})" for c in declared(kind)]
        documents.append(document)
    if not documents:
        problem = next((each for each in registry.problems(load=True) if each.name == name), None)
        if problem is not None:
            raise PluginError(f"plugin {name!r} is broken: {problem.message}", hint=problem.hint)
    if as_json:
        click.echo(json.dumps(documents))
        return
    for document in documents:
        table(["field", "value"], [row for key, value in document.items() for row in _rows(key, value)])


def _rows(key: str, value: object) -> list[list[str]]:
    if isinstance(value, dict):
        return [[f"option {name}", kind] for name, kind in value.items()]
    return [[key, ", ".join(map(str, value)) if isinstance(value, list) else str(value)]]


def _type_text(field: msgspec.structs.FieldInfo) -> str:
    """The type of an option for a person: `bool, default False`."""
    kind = field.type
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    if field.default is not None and field.default is not msgspec.NODEFAULT:
        return f"{text}, default {json.dumps(field.default, default=str)}"
    return text if field.required else f"{text}, optional"
