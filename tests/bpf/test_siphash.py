"""SipHash in eBPF, in C for Python, and a third time from the paper: all agree with its authors."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bpf.siphash import siphash
from tests.census import needs
from valkyrie.dataplane import ffi, lib
from valkyrie.dataplane.loader import Program

HERE = Path(__file__).parent
KEY = bytes(range(16))
OFFICIAL = """
    310e0edd47db6f72 fd67dc93c539f874 5a4fa9d909806c0d 2d7efbd796666785 b7877127e09427cf
    8da699cd64557618 cee3fe586e46c9cb 37d1018bf50002ab 6224939a79f5f593 b0e4a90bdf82009e
    f3b9dd94c5bb5d7a a7ad6b22462fb3f4 fbe50e86bc8f1e75 903d84c02756ea14 eef27a8e90ca23f7
    e545be4961ca29a1 db9bc2577fcc2a3f 9447be2cf5e99a69 9cd38d96f0b3c14b bd6179a71dc96dbb
    98eea21af25cd6be c7673b2eb0cbf2d0 883ea3e395675393 c8ce5ccd8c030ca8 94af49f6c650adb8
    eab8858ade92e1bc f315bb5bb835d817 adcf6b0763612e2f a5c91da7acaa4dde 716595876650a2a6
    28ef495c53a387ad 42c341d8fa92d832 ce7cf2722f512771 e37859f94623f3a7 381205bb1ab0e012
    ae97a10fd434e015 b4a31508beff4d31 81396229f0907902 4d0cf49ee5d4dcca 5c73336a76d8bf9a
    d0a704536ba93e0e 925958fcd6420cad a915c29bc8067318 952b79f3bc0aa6d4 f21df2e41d4535f9
    87577519048f53a9 10a56cf5dfcd9adb eb75095ccd986cd0 51a9cb9ecba312e6 96afadfc2ce666c7
    72fe52975a4364ee 5a1645b276d592a1 b274cb8ebf87870a 6f9bb4203de7b381 eaecb2a30b22a87f
    9924a43cc1315724 bd838d3aafbf8db7 0b1a2a3265d51aea 135079a3231ce660 932b2846e4d70666
    e1915f5cb1eca46c f325965ca16d629f 575ff28e60381be5 724506eb4c328a95
"""
"""vectors_sip64 of github.com/veorq/SipHash: hashes of 0, 1, .. 63 bytes 00 01 .. under KEY."""
VECTORS = [int.from_bytes(bytes.fromhex(each), "little") for each in OFFICIAL.split()]


def by_c(key: bytes, message: bytes) -> int:
    halves = ffi.from_buffer("uint64_t[]", key)
    return int(lib.vk_siphash_bytes(halves, ffi.from_buffer(message), len(message)))


@pytest.fixture(scope="module")
def hashing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    needs("root", "clang-19")
    target = tmp_path_factory.mktemp("siphash") / "siphash.bpf.o"
    command = [
        *("clang-19", "-g", "-O2", "-Wall", "-Wextra", "-Werror", "-ffreestanding"),
        *("-target", "bpf", "-mcpu=v3", f"-I{HERE.parents[1] / 'bpf'}"),
        *("-idirafter", f"/usr/include/{platform.machine()}-linux-gnu"),
        *("-c", str(HERE / "siphash.bpf.c"), "-o", str(target)),
    ]
    subprocess.run(command, check=True)
    with Program("siphash_test", image=target.read_bytes()) as program:
        yield program


def by_bpf(program: Program, message: bytes) -> int:
    packet = message.ljust(64, b"\xaa") + bytes((len(message),)) + bytes(15)
    run = program.test_run(packet)
    assert run.result == 2, "the program did not get that far"
    return int.from_bytes(run.packet[72:80], "little")


def test_the_official_vectors_hold_three_times(hashing: Program) -> None:
    assert len(VECTORS) == 64
    for size, expected in enumerate(VECTORS):
        message = bytes(range(size))
        found = (siphash(KEY, message), by_c(KEY, message), by_bpf(hashing, message))
        assert found == (expected,) * 3, f"of {size} bytes"


def test_the_papers_example_holds() -> None:
    assert siphash(KEY, bytes(range(15))) == by_c(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@given(message=st.binary(max_size=63))
def test_ebpf_hashes_as_c_does(hashing: Program, message: bytes) -> None:
    assert by_bpf(hashing, message) == by_c(KEY, message)


@given(key=st.binary(min_size=16, max_size=16), message=st.binary(max_size=600))
def test_c_hashes_as_the_paper_does(key: bytes, message: bytes) -> None:
    assert by_c(key, message) == siphash(key, message)
