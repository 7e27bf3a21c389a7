"""Numbers of shm/vk_abi.h change with what they are about, and are those of what is built."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
from cffi import FFI

from valkyrie.dataplane import lib
from valkyrie.shm import lib as shm_lib

layouts = SimpleNamespace(
    **runpy.run_path(str(Path(__file__).resolve().parent.parent / "scripts/layouts.py"))
)

BASE = "enum e { A = 1 }; struct s { int a; struct { short b; short c; } d[2]; };"
CHANGES = {
    "a field has another size": "enum e { A = 1 }; struct s { long a; struct { short b; short c; }"
    " d[2]; };",
    "two fields have changed places": "enum e { A = 1 }; struct s { int a; struct { short c;"
    " short b; } d[2]; };",
    "an array is longer": "enum e { A = 1 }; struct s { int a; struct { short b; short c; }"
    " d[3]; };",
    "a field has another sign": "enum e { A = 1 }; struct s { int a; struct { short b;"
    " unsigned short c; } d[2]; };",
    "a constant has another value": "enum e { A = 2 }; struct s { int a; struct { short b;"
    " short c; } d[2]; };",
    "there is one more constant": "enum e { A = 1, B = 2 }; struct s { int a; struct { short b;"
    " short c; } d[2]; };",
}


def described(declarations: str) -> str:
    ffi = FFI()
    ffi.cdef(declarations)
    return f"{layouts.describe(ffi.typeof('struct s'))} {layouts.describe(ffi.typeof('enum e'))}"


def test_the_same_is_described_as_the_same() -> None:
    assert described(BASE) == described(BASE.replace("int a;", "int  a;  /* words */"))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_shows(change: str) -> None:
    assert described(CHANGES[change]) != described(BASE)


@pytest.mark.parametrize("name", layouts.NUMBERS)
def test_what_is_built_has_the_numbers_of_its_layouts(name: str) -> None:
    headers, _ = layouts.NUMBERS[name]
    assert getattr(lib, name) == getattr(shm_lib, name) == layouts.number(headers), (
        "run scripts/formats, then scripts/setup"
    )


def test_every_layout_that_a_worker_shares_is_in_its_number() -> None:
    text = layouts.layout(layouts.NUMBERS["VK_WORKER_ABI"][0])
    for name in ("vk_peer", "vk_boot", "vk_guard", "vk_counters", "vk_region", "vk_port"):
        assert f"struct {name}: " in text
    assert "enum vk_class: " in text
