"""Watches counters for intrusion, by the rules of the configuration, and does what they say."""

from __future__ import annotations

import logging
import time
from collections import Counter as Counts
from typing import TYPE_CHECKING

from valkyrie.controlplane.broker import messages
from valkyrie.controlplane.config import reader as configuration
from valkyrie.controlplane.config.settings_intrusion import CLASSES
from valkyrie.controlplane.rest import rest
from valkyrie.controlplane.security.intrusion import Engine, Limit, Raised, Totals
from valkyrie.dataplane import lib
from valkyrie.dataplane.errors import DataPlaneError
from valkyrie.dataplane.units import NS_PER_S
from valkyrie.dataplane.wire import Class, Code, Counter, Verdict

from . import administration
from .blocks import Blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from valkyrie.controlplane.config.settings_intrusion import Intrusion

    from .daemon import Daemon

log = logging.getLogger("valkyrie")

LOOK_S = 0.5
NODE = "node"


class Watch:
    """The alarms of a running node."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.rules: list[Intrusion] = daemon.config.intrusion
        limits = [
            Limit(each.name, each.count, each.window_s * NS_PER_S, each.hold_s * NS_PER_S)
            for each in self.rules
        ]
        self._engine = Engine(limits)
        self._totals = Totals()
        self._blocks = Blocks(daemon)
        self.raised: Counts[str] = Counts()
        """Alarms so far, by rule."""

    async def run(self) -> None:
        """Look for ever."""
        if self._daemon.inherited.restarts:
            limits = [each for each in self.rules if each.action == "limit"]
            for which in {_policer(each, name) for each in limits for name in CLASSES}:
                await self._police(which)  # what an earlier daemon may have limited
        while True:
            await self.look(time.monotonic_ns())
            await rest(LOOK_S)

    def happened(self, counter: str, subject: str, growth: int = 1) -> None:
        """Count what the daemon itself has seen; ``subject`` is for rules that count apart."""
        now_ns = time.monotonic_ns()
        for index, rule in enumerate(self.rules):
            if rule.by == "peer" and subject in self._blocks:
                continue  # that nobody is found there is our own doing
            if rule.counter == f"daemon.{counter}":
                self._engine.count(index, NODE if rule.by == NODE else subject, growth, now_ns)

    async def look(self, now_ns: int) -> None:
        """Read the counters, and do what the rules say of them."""
        for index, rule in enumerate(self.rules):
            for subject, growth in self._totals.growth(index, dict(self._read(rule))):
                self._engine.count(index, subject, growth, now_ns)
        for event in self._engine.advance(now_ns):
            rule = self.rules[event.rule]
            if isinstance(event, Raised):
                await self._act(rule, event, now_ns)
            else:
                self._daemon.audit.note("intrusion.over", rule.name, rule=rule.name)
                log.info("intrusion rule '%s': over (%s)", rule.name, event.subject)
                if rule.action == "limit":
                    await self._police(_policer(rule, event.subject))
                elif rule.action == "block":
                    await self._blocks.end(rule, event.subject)
        await self._blocks.renew(self.rules, now_ns)

    def describe(self) -> list[dict[str, object]]:
        """Return what status says of the alarms that last."""
        return [
            {"rule": self.rules[rule].name, "by": self.rules[rule].by, "subject": subject}
            for rule, subject in self._engine.raised()
        ]

    # ---- Counters ----

    def _read(self, rule: Intrusion) -> Iterator[tuple[str, int]]:
        """Yield subjects and totals of a counter that others keep."""
        where, _, name = rule.counter.partition(".")
        if where == "application":
            if rule.by == "application":
                slots = self._daemon.apps.slots()
                yield from ((subject, self._of_slot(name, slot)) for slot, subject in slots)
            else:
                yield NODE, sum(self._of_slot(name, slot) for slot in range(lib.VK_APPS_MAX))
        elif where == "session":
            signals = self._daemon.counters.signals
            for index, peer in enumerate(self._daemon.config.peers):
                if not peer.gone:
                    yield peer.name, int(getattr(signals[index], name))
        elif where in ("kernel", "worker"):
            classes = {klass: self._of_class(where, name, klass) for klass in Class}
            if rule.by == "class":
                yield from ((klass.name.lower(), total) for klass, total in classes.items())
            else:
                yield NODE, sum(classes.values())

    def _of_class(self, where: str, name: str, klass: Class) -> int:
        page = self._daemon.counters
        if where == "worker":
            return int(page.classes[klass][Counter[name.upper()]])
        verdict = Verdict[name.upper()]
        ports = range(min(page.port_count, lib.VK_PORTS_MAX))
        return sum(int(page.verdicts[port].packets[klass][verdict]) for port in ports)

    def _of_slot(self, name: str, slot: int) -> int:
        row = self._daemon.counters.apps[slot]
        return sum(int(getattr(row[klass], name)) for klass in Class)

    # ---- Actions ----

    async def _act(self, rule: Intrusion, event: Raised, now_ns: int) -> None:
        self.raised[rule.name] += 1
        self._daemon.audit.note(
            f"intrusion.{rule.action}",
            rule.name,
            rule=rule.name,
            counter=rule.counter,
            by=rule.by,
            about=event.subject,
            seen=event.seen,
        )
        log.warning(
            "intrusion rule '%s': %s grew by %d in %d s (%s): %s",
            rule.name,
            rule.counter,
            event.seen,
            rule.window_s,
            event.subject,
            rule.action,
        )
        if rule.action == "limit":
            await self._police(_policer(rule, event.subject))
        elif rule.action in ("kill", "rotate"):
            index = self._daemon.peers.find(event.subject)
            if index is not None and rule.action == "kill":
                self._daemon.links.close(index, Code.POLICY)
            elif index is not None:
                self._daemon.links.renew(index)
        elif rule.action == "block":
            await self._blocks.begin(rule, event.subject, now_ns)
        elif rule.action == "detach":
            self._daemon.apps.cut(event.subject)

    def rates(self, which: int) -> tuple[int, int]:
        """Return the rate and the burst of a policer: the configuration's, or a lower limit."""
        config = self._daemon.config
        if which == messages.SOURCE:
            rate, burst = config.source.rate_packets, config.source.burst_packets
        else:
            limits = configuration.limits(config, Class(which))
            rate, burst = limits.rate_packets, limits.burst_packets
        for index, subject in self._engine.raised():
            rule = self.rules[index]
            if rule.action == "limit" and _policer(rule, subject) == which:
                rate = min(rate or rule.rate_packets, rule.rate_packets)
                burst = min(burst, rate)
        return rate, burst

    async def _police(self, which: int) -> None:
        try:
            await administration.police(self._daemon, which)
        except DataPlaneError as error:
            log.warning("a limit could not be set: %s", error.args[-1])


def _policer(rule: Intrusion, subject: str) -> int:
    """Return which policer a rule's limit is about: a class, or every source."""
    return int(Class[subject.upper()]) if rule.by == "class" else messages.SOURCE
