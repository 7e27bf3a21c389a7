"""Who may do what: truth tables, default deny."""

from __future__ import annotations

from dataclasses import replace

import pytest

from valkyrie.controlplane.security import policy
from valkyrie.controlplane.security.policy import (
    Grant,
    Operator,
    Refusal,
    Role,
    Rule,
    StreamRange,
    Whom,
)
from valkyrie.dataplane import lib
from valkyrie.dataplane.wire import Class

PAGE = lib.VK_SHM_PAGE

GRANT = Grant(
    rule="jobs",
    classes=frozenset({Class.SYSTEM, Class.JOB}),
    streams=(StreamRange(5, 5), StreamRange(100, 199)),
    listen=("jobs.*", "status"),
    peers=("worker-?", "10.9.0.*", "fd09::2"),
    rate_messages=0,
    rate_bytes=0,
    weight=100,
    ring_bytes=65536,
    memory_bytes_max=2 * (PAGE + lib.VK_CONTROL_RING + 2 * 131072),
    attachments_max=2,
)


def named(name: str) -> Grant:
    return replace(GRANT, rule=name)


RULES = (
    Rule(named("root"), Whom(uids=frozenset({0}))),
    Rule(named("staff"), Whom(uids=frozenset({7}), gids=frozenset({50, 51}))),
    Rule(named("seven"), Whom(uids=frozenset({7}))),
)
OPEN = (*RULES, Rule(named("rest"), Whom(anybody=True)))

ATTACH = {
    # number: (rules, uid, gids, rule that decides; "" = refused)
    1: (RULES, 0, {0}, "root"),
    2: (RULES, 7, {7}, "staff"),  # the first match decides, seven comes too late
    3: (RULES, 8, {51}, "staff"),
    4: (RULES, 8, {1, 2, 50}, "staff"),
    5: (RULES, 8, {8}, ""),
    6: (RULES, 50, {0}, ""),  # a uid is no gid
    7: ((), 0, {0}, ""),  # root too needs a rule
    8: (OPEN, 8, {8}, "rest"),
    9: (OPEN, 0, set(), "root"),
}


@pytest.mark.parametrize("number", ATTACH)
def test_the_first_rule_that_matches_decides(number: int) -> None:
    rules, uid, gids, expected = ATTACH[number]
    decision = policy.decide(rules, uid, gids)
    if expected:
        assert isinstance(decision, Grant)
        assert decision.rule == expected
    else:
        assert isinstance(decision, Refusal)
        assert decision.code == lib.VK_CODE_POLICY
        assert f"uid {uid}" in decision.reason


RINGS = {
    # number: (attached, bytes asked for, capacity granted; text = refused)
    1: (0, 0, 65536),
    2: (1, 4096, 4096),
    3: (1, 131072, 131072),  # exactly the memory
    4: (0, 262144, "memory_bytes_max"),
    5: (2, 0, "attachments_max"),
    6: (0, 5000, "power of two"),
    7: (0, 2048, "power of two"),  # below the smallest ring
    8: (0, 1 << 31, "power of two"),
    9: (0, -4096, "power of two"),
}


@pytest.mark.parametrize("number", RINGS)
def test_rings_are_granted_by_class_within_the_memory(number: int) -> None:
    attached, asked, expected = RINGS[number]
    decision = policy.rings(GRANT, attached, asked)
    if isinstance(expected, str):
        assert isinstance(decision, Refusal)
        assert expected in decision.reason
    else:
        assert decision == (lib.VK_CONTROL_RING, 0, expected, expected, 0, 0)


LISTEN = {
    1: ("status", True),
    2: ("jobs.build", True),
    3: ("jobs.", True),
    4: ("jobs", False),
    5: ("Status", False),
    6: ("", False),
    7: ("jobs." + "x" * 64, False),  # longer than the wire takes
    8: ("jobs.\n", False),
    9: ("xjobs.a", False),
}


@pytest.mark.parametrize("number", LISTEN)
def test_services_are_offered_by_pattern(number: int) -> None:
    service, allowed = LISTEN[number]
    assert (policy.may_listen(GRANT, service) is None) is allowed


REACH = {
    1: ("worker-1", "192.0.2.1", True),
    2: ("worker-12", "192.0.2.1", False),
    3: ("other", "10.9.0.77", True),
    4: ("other", "10.90.0.7", False),
    5: ("other", "fd09::2", True),
    6: ("", "", False),
}


@pytest.mark.parametrize("number", REACH)
def test_peers_are_reached_by_name_or_address(number: int) -> None:
    peer, address, allowed = REACH[number]
    assert (policy.may_reach(GRANT, peer, address) is None) is allowed


def test_a_grant_of_nothing_lets_nothing_through() -> None:
    nothing = replace(GRANT, classes=frozenset(), streams=(), listen=(), peers=())
    assert policy.may_listen(nothing, "status")
    assert policy.may_reach(nothing, "worker-1", "10.9.0.1")
    assert nothing.class_mask == 0


def test_classes_become_the_bits_of_the_shared_row() -> None:
    assert GRANT.class_mask == 1 << Class.SYSTEM | 1 << Class.JOB


OPERATORS = (
    Operator(frozenset({Role.READ}), Whom(uids=frozenset({20}))),
    Operator(frozenset({Role.TUNE}), Whom(gids=frozenset({60}))),
    Operator(frozenset({Role.LOAD}), Whom(uids=frozenset({20, 21}))),
    Operator(frozenset({Role.ADMINISTER}), Whom(uids=frozenset({22}))),
)
ALL = {Role.READ, Role.TUNE, Role.LOAD, Role.ADMINISTER}
ROLES = {
    # number: (rules, uid, gids, roles)
    1: (RULES, 99, {99}, set()),
    2: (RULES, 20, {20}, {Role.READ, Role.LOAD}),  # all rules that match, not the first
    3: (RULES, 21, {60}, {Role.READ, Role.LOAD, Role.TUNE}),  # any role may read
    4: (RULES, 22, {22}, ALL),
    5: (RULES, 7, {7}, {Role.READ, Role.ATTACH}),
    6: (RULES, 0, {0}, ALL | {Role.ATTACH}),
    7: ((), 0, {0}, ALL),  # root too attaches by rules only
    8: ((), 65534, {65534}, ALL),
    9: ((), 60, {20}, set()),  # a uid is no gid
    10: (OPEN, 99, {99}, {Role.READ, Role.ATTACH}),
}


@pytest.mark.parametrize("number", ROLES)
def test_roles_add_up(number: int) -> None:
    rules, uid, gids, expected = ROLES[number]
    assert policy.roles(OPERATORS, rules, uid, gids, (0, 65534)) == expected
