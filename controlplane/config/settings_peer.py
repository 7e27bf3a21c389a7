"""The tables ``[[peer]]``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from valkyrie.controlplane.security.policy import Rights
from valkyrie.dataplane.wire import Class

from .settings_base import ClassName, Name, Settings
from .settings_security import ModeName


class Peer(Settings, frozen=True, kw_only=True):
    """Another node that applications of this one may talk to."""

    name: Annotated[Name, Meta(description="What applications and rules call it.")]
    address: Annotated[str, Meta(description="IPv4 or IPv6 address.")]
    port: Annotated[
        int, Meta(ge=0, le=65535, description="Its UDP port; 0 = the same as node.udp_port.")
    ] = 0
    link: Annotated[
        Literal["auto", "lan", "wan"],
        Meta(
            description="Which keepalive fits it; `auto`: `wan` when the route has a gateway.",
        ),
    ] = "auto"
    static: Annotated[
        bool,
        Meta(
            description="No handshake: frames carry session 0, nobody notices that the peer is dead"
            " or has started anew. For tools that speak to a node by themselves."
        ),
    ] = False
    fingerprint: Annotated[
        str,
        Meta(description="Who it is: what `valkyrie key fingerprint` prints on it."),
    ] = ""
    card: Annotated[
        str,
        Meta(
            description="Instead of the fingerprint, its card as `valkyrie key show` prints it:"
            " hides who we are from whoever answers in its place."
        ),
    ] = ""
    token: Annotated[
        str,
        Meta(
            pattern="^([0-9a-f]{16})?$",
            description="For `token`: the id of the secret that is shared with it, as `valkyrie"
            " key token` prints it.",
        ),
    ] = ""
    certificate: Annotated[
        str, Meta(description="For `mtls`: the node's name in its certificate.")
    ] = ""
    plaintext: Annotated[
        bool,
        Meta(
            description="Talk to it unprotected, and believe whoever has its address. Wants"
            " `plaintext` among `security.modes`."
        ),
    ] = False
    show: Annotated[str, Meta(description="What it is shown: the name of an [[auth]].")] = ""
    demand: Annotated[
        str,
        Meta(
            description="What it has to show: the name of an [[auth]]. Beside its fingerprint,"
            " card, token or certificate, or instead of all."
        ),
    ] = ""
    subject: Annotated[
        str, Meta(description="Whose that has to be; empty: its own, by the name it has here.")
    ] = ""
    min_mode: Annotated[
        ModeName | None, Meta(description="As `security.min_mode`; it can only ask for more.")
    ] = None
    require_pq: Annotated[
        bool, Meta(description="As `security.require_pq`; it can only ask for more.")
    ] = False
    services: Annotated[
        list[str],
        Meta(
            description="Services of this node that its applications may open streams to, with `*`"
            " and `?` as in file names.",
        ),
    ] = field(default_factory=lambda: ["*"])
    classes: Annotated[
        list[ClassName],
        Meta(description="Classes in which they may open streams. Empty: all."),
    ] = field(default_factory=list)

    @property
    def gone(self) -> bool:
        """Whether it was removed while the node ran: only its place is left, others keep theirs."""
        return not self.name

    @property
    def rights(self) -> Rights:
        """What its applications may open here."""
        services, classes = tuple(self.services), {Class[name.upper()] for name in self.classes}
        return Rights(services, frozenset(classes)) if classes else Rights(services)
