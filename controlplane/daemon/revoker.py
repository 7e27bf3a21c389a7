"""Ends the sessions of peers that were revoked, and takes renewed certificates, while a node runs.

By looking at files a few times a second: nothing needs a restart, or anybody to be asked.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING

from valkyrie.controlplane.rest import rest
from valkyrie.controlplane.security.certificates import node_name, renewal_time
from valkyrie.controlplane.security.changing_file import Stamp, stamp
from valkyrie.controlplane.security.crl import RollbackError
from valkyrie.controlplane.security.errors import MisuseError
from valkyrie.controlplane.security.modes import Mode
from valkyrie.controlplane.security.tls_files import parse_chain
from valkyrie.dataplane.errors import ConfigError
from valkyrie.dataplane.wire import Code

if TYPE_CHECKING:
    from pathlib import Path

    from valkyrie.controlplane.security.revocation import Revocations
    from valkyrie.controlplane.security.trust import Peer

    from .auditor import Auditor
    from .credentials import Credentials
    from .links import Links
    from .listed import Memory

log = logging.getLogger("valkyrie")

LOOK_S = 0.25
"""A revoked peer's session is over in less than a second."""
_REMIND = dt.timedelta(days=1)


class Revoker:
    """Looks at ``revoked.toml``, at authorities' lists, and at the node's own certificate."""

    def __init__(
        self,
        credentials: Credentials,
        audit: Auditor,
        links: Links,
        certificate: Path | None = None,
        memory: Memory | None = None,
    ) -> None:
        """Begin with what was revoked when the credentials were read."""
        self._memory = memory
        self._credentials = credentials
        self._audit = audit
        self._links = links
        self._certificate = certificate
        self._seen = _stamp(certificate)
        self._reminded: dict[str, dt.datetime] = {}
        self._said: dict[str, str] = {}
        self._unread = ""
        self._applied = 0
        """To so many peers; more can come, and a list that is new is applied to all."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            self.look(dt.datetime.now(dt.UTC))
            if self._memory is not None:
                await self._memory.look()
            await rest(LOOK_S)

    def look(self, now: dt.datetime) -> None:
        """Do what the files say now."""
        for step in (self._read_own, self._read_lists, self._read_shown, self._renew):
            try:
                step(now)
            except (ConfigError, OSError) as error:
                if str(error) != self._said.get(step.__name__):  # once, not four times a second
                    self._said[step.__name__] = str(error)
                    log.warning("%s", error)
                    self._audit.note("credentials.unreadable", reason=str(error))
        # What was read at the start too: sessions may be older.
        if self._credentials.obey(now) or self._applied != len(self._credentials.peers):
            self._applied = len(self._credentials.peers)
            self._apply(self._credentials.pins.revocations)
        self._remind(now)

    # ---- Peers ----

    def _read_own(self, _now: dt.datetime) -> None:
        file = self._credentials.revoked
        if file is not None and file.poll():
            self._audit.note("revocation.read", entries=file.revocations.count)
            log.info("revoked.toml has %d entries now", file.revocations.count)

    def _read_lists(self, now: dt.datetime) -> None:
        file = self._credentials.crl
        if file is None:
            return
        try:
            changed = file.poll(now)
        except RollbackError as error:  # raised once for each change
            self._audit.note("crl.rollback", reason=str(error))
            log.error("%s", error)  # noqa: TRY400  # nothing is broken here
            return
        if changed:
            self._audit.note("crl.read", entries=len(file.lists.serials), until=file.until)
            log.info(
                "%d certificates are revoked by list, good until %s UTC",
                len(file.lists.serials),
                file.until,
            )
            self._reminded.pop("crl.due", None)
            self._reminded.pop("crl.stale", None)

    def _read_shown(self, _now: dt.datetime) -> None:
        """Look at the files of [[auth]] now: at the next handshake nobody may be there to read."""
        providers = self._credentials.providers
        why = providers.look() if providers is not None else ""
        if why and why != self._unread:
            self._audit.note("credentials.unreadable", reason=why)
        self._unread = why

    def _apply(self, revocations: Revocations) -> None:
        for index, peer in enumerate(self._credentials.peers):
            if peer is None:
                continue
            self._links.bar(index, barred=revocations.reason_for(peer) is not None)
            reason = self._reason(index, peer)
            if reason is not None:
                self._audit.note("peer.revoke", peer.name, peer=peer.name, reason=reason)
                what = "is not believed" if reason == revocations.distrust else "is revoked"
                log.warning("peer '%s' %s: %s", peer.name, what, reason or "no reason given")
                self._links.close(index, Code.CREDENTIAL)

    def _reason(self, index: int, peer: Peer) -> str | None:
        """Return why the session with a peer has to end; None: it may last."""
        revocations = self._credentials.pins.revocations
        reason = revocations.reason_for(peer)
        link = self._links.sessions[index].link
        if reason is None and link is not None:  # nothing but what was shown may say who it is
            reason = revocations.reason_against(link.protection.fingerprint)
        if reason is not None or link is None:
            return reason
        mode = link.protection.mode
        by_certificate = mode is Mode.MTLS or (mode is None and peer.certificate_name)
        if revocations.distrust and by_certificate:
            return revocations.distrust
        if not revocations.serials:
            return None
        if link.protection.serials:
            return revocations.reason_against_any(link.protection.serials)
        if mode is None and peer.certificate_name:
            return "a certificate was revoked, perhaps this one's: it may prove itself anew"
        return None

    # ---- The node's own certificate ----

    def _renew(self, _now: dt.datetime) -> None:
        tls = self._credentials.local.tls
        if self._certificate is None or tls is None:
            return
        found = _stamp(self._certificate)
        if found == self._seen:
            return
        self._seen = found
        try:
            tls.renew(parse_chain(self._certificate, self._certificate.read_bytes()))
        except MisuseError as error:
            raise ConfigError(f"{self._certificate}: {error}: start the node again") from None
        until = f"{tls.chain[0].not_valid_after_utc:%Y-%m-%d %H:%M}"
        serial = f"{tls.chain[0].serial_number:x}"
        self._audit.note("certificate.renew", serial=serial, until=until)
        log.info("a new certificate of '%s', good until %s UTC", node_name(tls.chain[0]), until)
        self._reminded.pop("certificate.due", None)

    # ---- What will be too old ----

    def _remind(self, now: dt.datetime) -> None:
        tls, crl = self._credentials.local.tls, self._credentials.crl
        if tls is not None and now >= renewal_time(tls.chain[0]):
            until = f"{tls.chain[0].not_valid_after_utc:%Y-%m-%d %H:%M}"
            what = (
                f"this node's certificate is good until {until} UTC and past two thirds of its"
                f" life: `valkyrie cert renew`, and put it in the place of {self._certificate}"
            )
            self._say("certificate.due", until, what, now)
        if crl is not None and crl.lists.stale(now):
            sense = "nobody is let in by certificate" if crl.obeyed else "it is obeyed all the same"
            what = f"the list of revoked certificates was good until {crl.until} UTC: {sense}"
            self._say("crl.stale", crl.until, what, now)
        elif crl is not None and crl.lists.due(now):
            what = f"the list of revoked certificates is good until {crl.until} UTC: `valkyrie cert"
            self._say("crl.due", crl.until, f"{what} crl` makes a new one", now)

    def _say(self, event: str, until: str, what: str, now: dt.datetime) -> None:
        """Say what will be too old, or is, once a day."""
        last = self._reminded.get(event)
        if last is None or now - last >= _REMIND:
            self._reminded[event] = now
            self._audit.note(event, until=until)
            log.warning("%s", what)


def _stamp(path: Path | None) -> Stamp | None:
    if path is None:
        return None
    try:
        return stamp(path)
    except OSError:
        return None
