"""Writes docs/CONFIGURATION.md from the settings' own descriptions, ranges and defaults.

``python -m valkyrie.controlplane.config.config_doc > docs/CONFIGURATION.md``; a test compares.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from . import reader as config
from . import settings
from .settings_base import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = """# Configuration

*Made from `controlplane/config/settings*.py`; change it there.*

A node reads `{path}`, or the file that `--config` names, once at start. It is TOML. Unknown keys,
wrong types and values out of range are refused with the key and what to write instead; what is not
written has the default below. A file that anybody may write is refused, since it grants rights.

The smallest useful one:

```toml
{example}```

Keys marked **live** change while the node runs: `valkyrie tune {live}=100000`. A tuned value lasts
until the node stops.
"""

EXAMPLE = """\
[[interface]]
name = "eth0"

[[peer]]
name = "other"
address = "10.9.0.2"
fingerprint = "cfeul-dkrdu-bmexq-tbgpu-uqrqp-xdpjj-xwyq2-tqoxq"

[[application]]
name = "everybody-here"
anybody = true
classes = ["system", "job", "data"]
listen = ["*"]
peers = ["other"]
"""


def document() -> str:
    """Return the text of docs/CONFIGURATION.md."""
    parts = [
        _HEAD.format(path=config.DEFAULT_PATH, example=EXAMPLE, live="class.logs.rate_packets")
    ]
    for field in msgspec.structs.fields(settings.Config):
        table, many = config.nested(field.type)
        if table is None:
            continue
        if table is settings.Classes:
            parts += _classes(field.encode_name)
            continue
        title = f"[[{field.encode_name}]]" if many else f"[{field.encode_name}]"
        parts.append(f"## {title}\n\n{_sentence(table)}{_count(field.type, many=many)}\n")
        parts.append(_table(table))
    return "\n".join(parts)


def _count(annotation: Any, *, many: bool) -> str:
    if not many:
        return ""
    limits = next(config.metadata(annotation), msgspec.Meta())
    return f" {limits.description or ''} At most {limits.max_length}."


def _sentence(table: type) -> str:
    return " ".join((inspect.getdoc(table) or "").split())


def _classes(name: str) -> Iterator[str]:
    """Yield the section of [class.<name>], whose defaults depend on the name."""
    limits = settings.ClassLimits
    yield f"## [{name}.*name*]\n\n{_sentence(limits)} {_sentence(settings.Classes)}\n"
    yield _table(limits, hide_default=True)
    defaults = settings.Classes()
    keys = [field.encode_name for field in msgspec.structs.fields(limits)]
    rows = [["default of", *(f"`{key}`" for key in keys)], ["---"] * (len(keys) + 1)]
    for each in msgspec.structs.fields(settings.Classes):
        values = getattr(defaults, each.name)
        rows.append([f"`[{name}.{each.name}]`", *(str(getattr(values, key)) for key in keys)])
    yield _rows(rows)


def _table(table: type[Settings], *, hide_default: bool = False) -> str:
    rows = [["key", "what it is", "takes", "default"], ["---"] * 4]
    for field in msgspec.structs.fields(table):
        metas = list(config.metadata(field.type))
        text = next((meta.description for meta in metas if meta.description), "")
        if any((meta.extra or {}).get("live") for meta in metas):
            text += " **live**"
        default = "*below*" if hide_default else _default(field)
        rows.append([f"`{field.encode_name}`", text, takes(field.type), default])
    return _rows(rows)


def _rows(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _default(field: Any) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{msgspec.json.encode(field.default_factory()).decode()}`"
    if field.default is msgspec.NODEFAULT:
        return "*required*"
    if field.default is None or field.default == "":
        return "*none*"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def takes(annotation: Any) -> str:
    """Return what a key takes, in words: type and range."""
    metas = list(config.metadata(annotation))
    bare = annotation
    while hasattr(bare, "__metadata__"):
        bare = bare.__origin__
    if get_origin(bare) is Literal:
        return ", ".join(f'`"{value}"`' for value in get_args(bare))
    if get_origin(bare) is list:
        return f"list of {takes(get_args(bare)[0])}"
    options = [option for option in get_args(bare) if option is not type(None)]
    if options:
        return " or ".join(takes(option) for option in options)
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    high = next((meta.le for meta in metas if meta.le is not None), None)
    name = {int: "number", str: "text", bool: "`true`, `false`"}[bare]
    return f"{name}, {low} to {high}" if low is not None else name


if __name__ == "__main__":
    sys.stdout.write(document())
