"""Loading programs, their maps, and what is said when it fails."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from tests.census import NODE_PREFIX, needs
from valkyrie import bpf
from valkyrie.dataplane import ffi, lib, loader
from valkyrie.dataplane.errors import ConfigError, DataPlaneError
from valkyrie.dataplane.loader import Map, Program, open_classifier, open_pinned_map
from valkyrie.dataplane.wire import Class

pytestmark = pytest.mark.net  # the census of descriptors


def test_maps_have_the_documented_names_and_shapes() -> None:
    needs("root")
    with open_classifier() as program:
        entries = {name: each.shape.entries for name, each in program.maps.items()}
        sizes = {name: each.shape.value_size for name, each in program.maps.items()}
    pairs = lib.VK_QUEUES_MAX * lib.VK_CLASS_COUNT
    assert entries == {
        "vk_xsks": pairs,
        "vk_lanes": 1,
        "vk_source": 1,
        "vk_sources": lib.VK_SOURCES_MAX,
        "vk_counts": lib.VK_CLASS_COUNT * lib.VK_VERDICT_COUNT,
        "vk_guard": 1,
        "vk_denied": lib.VK_DENIED_MAX,
        "vk_blocked": lib.VK_BLOCKED_MAX,
    }
    assert sizes["vk_lanes"] == pairs * ffi.sizeof("struct vk_lane")
    for name, struct in (
        ("source", "police"),
        ("sources", "bucket"),
        ("counts", "count"),
        ("guard", "guard"),
    ):
        assert sizes[f"vk_{name}"] == ffi.sizeof(f"struct vk_{struct}")


def test_elements_are_written_read_walked_and_removed() -> None:
    needs("root")
    with open_classifier() as program:
        sources = program.maps["vk_sources"]
        key = bytes(range(16))
        assert sources.lookup(key) is None
        assert sources.delete(key) is False
        policer = program.maps["vk_source"]
        program.set_source_police(1e6, 500)
        row = policer.lookup(0)
        assert row == loader.police(1e6, 500)
        assert [int.from_bytes(each, "little") for each in policer] == [0]
        with pytest.raises(DataPlaneError, match="update map vk_source"):
            policer.update(99, row)


def lane(lanes: Map, klass: Class, queue: int = 0) -> bytes:
    """Return a lane's police, as the kernel has it."""
    table = lanes.lookup(0)
    assert table is not None
    rows = ffi.from_buffer("struct vk_lane[]", table)
    return bytes(ffi.buffer(ffi.addressof(rows[queue * lib.VK_CLASS_COUNT + klass], "police")))


def test_a_class_is_policed_alike_on_every_queue_and_no_other_class_is() -> None:
    needs("root")
    with open_classifier() as program:
        program.set_police(Class.LOGS, 1e6, 500)
        lanes = program.maps["vk_lanes"]
        for queue in range(lib.VK_QUEUES_MAX):
            found = {klass: lane(lanes, klass, queue) for klass in Class}
            assert found.pop(Class.LOGS) == loader.police(1e6, 500)
            assert set(found.values()) == {bytes(16)}


def test_mapped_lanes_are_the_maps_memory() -> None:
    needs("root")
    with open_classifier() as program:
        lanes = program.maps["vk_lanes"]
        with lanes.map_memory() as memory:
            memory[:8] = (77).to_bytes(8, "little")
        found = lanes.lookup(0)
        assert found is not None
        assert int.from_bytes(found[:8], "little") == 77


def test_a_program_that_is_no_object_is_refused_with_libbpfs_words() -> None:
    with pytest.raises(DataPlaneError, match=r"(?s)open the eBPF object junk.*libbpf says: ."):
        Program("junk", image=b"not an ELF file at all")


def test_a_program_the_kernel_rejects_is_refused_with_the_verifiers_words() -> None:
    needs("root")
    image = bytearray(bpf.load("pass"))
    # `w0 = 2; exit` becomes `r0 = r5; exit`: an uninitialised register
    at = image.index(bytes.fromhex("b400000002000000") + bytes.fromhex("9500000000000000"))
    image[at : at + 8] = bytes.fromhex("bf50000000000000")
    with pytest.raises(DataPlaneError, match=r"(?s)load the eBPF program pass.*R5 !read_ok"):
        Program("pass", image=bytes(image))


def test_unknown_and_unfit_variables_are_named() -> None:
    with pytest.raises(DataPlaneError, match="set vk_nonsense = 1"):
        Program("classify", variables={"vk_nonsense": 1})
    with pytest.raises(DataPlaneError, match="set vk_udp_port = 65536") as caught:
        open_classifier(65536)
    assert caught.value.errno == errno.ERANGE


def test_a_program_runs_on_live_maps_of_the_same_shape_only() -> None:
    needs("root")
    with open_classifier() as first:
        first.set_police(Class.DATA, 7, 7)
        with open_classifier(reuse=first.maps) as second:
            assert lane(second.maps["vk_lanes"], Class.DATA) == loader.police(7, 7)
            second.set_police(Class.JOB, 5, 5)
            assert lane(first.maps["vk_lanes"], Class.JOB) == loader.police(5, 5)
        with pytest.raises(DataPlaneError, match="stop and start the node") as caught:
            open_classifier(reuse={"vk_lanes": first.maps["vk_source"]})
        assert caught.value.errno == errno.EPROTO


def test_maps_outlive_their_program_by_a_duplicate_or_a_pin() -> None:
    needs("root", "bpffs")
    pins = Path("/sys/fs/bpf") / f"{NODE_PREFIX}loader"
    pins.mkdir()
    try:
        with open_classifier() as program:
            program.set_police(Class.DATA, 9, 9)
            copy = program.maps["vk_lanes"].duplicate()
            program.pin(pins)
        again: Map = open_pinned_map(pins / "vk_lanes")
        assert lane(copy, Class.DATA) == lane(again, Class.DATA) == loader.police(9, 9)
        copy.close()
        again.close()
        assert (pins / "vk_classify").exists()
    finally:
        for pin in pins.iterdir():
            pin.unlink()
        pins.rmdir()


def test_a_missing_pin_is_named() -> None:
    with pytest.raises(DataPlaneError, match="open the pinned map /sys/fs/bpf/none"):
        open_pinned_map("/sys/fs/bpf/none")


def test_rates_too_large_are_refused() -> None:
    with pytest.raises(ConfigError, match="too large"):
        loader.police(1e10, 1)
    with pytest.raises(ConfigError, match="too large"):
        loader.police(1, 1 << 40)


def test_without_capabilities_the_error_names_them() -> None:
    needs("root")
    # Everything is read before the drop: nobody may not be able to read this interpreter's home.
    code = (
        "import os; from valkyrie import bpf; from valkyrie.dataplane.loader import Program\n"
        "image = bpf.load('classify')\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try: Program('classify', image=image)\n"
        "except OSError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" in done.stdout
