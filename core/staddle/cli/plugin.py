"""`staddle plugin`: what is installed, what it provides, and what is wrong with it."""

from __future__ import annotations

import json

import click
import msgspec

from staddle.api.media import MediaType
from staddle.cli.output import table
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
            document["options"] = {f.encode_name: str(f.type) for f in msgspec.structs.fields(config_type)}
        if isinstance(kind, MediaType):
            document["durability"] = kind.durability.value
            document["capabilities"] = [f"{c.name} ({c.surety.value})" for c in declared(kind)]
        documents.append(document)
    if as_json:
        click.echo(json.dumps(documents))
        return
    for document in documents:
        table(["field", "value"], [[key, _plain(value)] for key, value in document.items()])


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {kind}" for key, kind in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
