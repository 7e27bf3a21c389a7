"""The doctor tells what is there, what is missing and what that costs, and changes nothing."""

from __future__ import annotations

import pytest

from tests.lab import Lab, Link
from valkyrie.controlplane.host import doctor, facts
from valkyrie.controlplane.host.doctor import Finding, Report

VERSIONS = {
    # number: (uname -r, uname -v, upstream version)
    1: ("6.18.44-fc-v669", "#1 SMP", (6, 18, 44)),
    2: ("6.1.0-44-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.164-1 (2026-03-01)", (6, 1, 164)),
    3: ("5.15", "", (5, 15, 0)),
    4: ("6.12-rc3", "", (6, 12, 0)),
    5: ("unknown", "", (0, 0, 0)),
}


@pytest.mark.parametrize("number", VERSIONS)
def test_the_upstream_version_is_told_from_the_texts(number: int) -> None:
    release, version, expected = VERSIONS[number]
    assert facts.upstream_version(release, version) == expected


AFFLICTED = {
    # number: (version, which of the three known faults it has)
    1: ((5, 2, 99), (False, False, False)),
    2: ((5, 10, 200), (True, False, False)),
    3: ((6, 1, 163), (True, False, False)),
    4: ((6, 1, 164), (False, False, False)),
    5: ((6, 6, 122), (True, False, False)),
    6: ((6, 6, 123), (False, False, False)),
    7: ((6, 7, 1), (True, False, False)),  # a series that was never mended
    8: ((6, 12, 27), (True, False, False)),
    9: ((6, 12, 28), (False, False, False)),
    10: ((6, 13, 1), (True, False, True)),
    11: ((6, 14, 5), (True, False, True)),
    12: ((6, 14, 6), (False, False, True)),
    13: ((6, 15, 0), (False, False, False)),
    14: ((6, 16, 3), (False, True, False)),
    15: ((6, 17, 9), (False, True, False)),
    16: ((6, 18, 0), (False, False, False)),
}


@pytest.mark.parametrize("number", AFFLICTED)
def test_known_faults_are_told_by_version(number: int) -> None:
    version, expected = AFFLICTED[number]
    assert tuple(fault.afflicts(version) for fault in facts.FAULTS) == expected


def finding(need: doctor.Need, *, ok: bool) -> Finding:
    return Finding(need, ok, need, "", "", "")


ABLE = {
    # number: (node, xdp, udp, speed) -> a node can run
    1: ((True, True, True, True), True),
    2: ((True, True, False, True), True),
    3: ((True, False, True, True), True),
    4: ((True, False, False, True), False),
    5: ((False, True, True, True), False),
    6: ((True, True, True, False), True),
}


@pytest.mark.parametrize("number", ABLE)
def test_a_node_needs_one_path_and_what_every_node_needs(number: int) -> None:
    have, expected = ABLE[number]
    needs: tuple[doctor.Need, ...] = ("node", "xdp", "udp", "speed")
    report = Report([finding(need, ok=ok) for need, ok in zip(needs, have, strict=True)])
    assert report.ok is expected


def test_every_finding_says_what_it_gives_costs_and_how_to_get_it(pair: tuple[Link, Link]) -> None:
    here, _ = pair
    report = here.host.run(doctor.examine, {here.name: 1, "nowhere0": 1})
    for each in report.findings:
        assert all((each.gives, each.costs, each.how)), each
        assert each.found, each
    names = [each.name for each in report.findings]
    assert len(names) == len(set(names))
    missing = {each.name for each in report.missing}
    assert "nowhere0: present" in missing
    assert f"{here.name}: zero-copy" in missing, "a veth has none"
    assert f"{here.name}: native XDP" not in missing
    assert not report.can("node"), "an interface of the configuration is not there"


def test_without_names_it_looks_at_the_interfaces_that_are_up(pair: tuple[Link, Link]) -> None:
    here, _ = pair
    report = here.host.run(doctor.examine)
    assert f"{here.name}: carrier" in {each.name for each in report.findings}


def test_more_queues_than_served_are_noticed(pair: tuple[Link, Link]) -> None:
    here, _ = pair
    (found,) = (
        each
        for each in here.host.run(doctor.examine, {here.name: 1}).findings
        if each.name == f"{here.name}: every queue served"
    )
    assert found.ok
    assert found.found == "1 of 1"


WIDE = {
    # queues of the device, served -> all are, found, how
    1: (2, 0, True, "2 of 2", ""),
    2: (2, 1, False, "1 of 2", "take interface.queues away, or ethtool -L vk0 combined 1"),
    3: (9, 0, False, "8 of 9", "ethtool -L vk0 combined 8"),
    4: (9, 3, False, "3 of 9", "ethtool -L vk0 combined 3"),
}


@pytest.mark.parametrize("number", WIDE)
def test_a_device_of_many_queues_is_served_whole_or_it_says_how(lab: Lab, number: int) -> None:
    queues, wanted, whole, found, how = WIDE[number]
    here, _ = lab.wire(lab.host("a"), lab.host("b"), queues=queues)
    findings = here.host.run(doctor.examine, {here.name: wanted}).findings
    (finding,) = (each for each in findings if each.name == f"{here.name}: every queue served")
    assert (finding.ok, finding.found) == (whole, found)
    assert whole or finding.how == how
