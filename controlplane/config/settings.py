"""The settings of a node, as one tree of frozen structs: every default and range stands here once.

``config.py`` reads the file into this tree; docs/CONFIGURATION.md is made from it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from valkyrie.controlplane.security.policy import STREAM_MAX
from valkyrie.dataplane import lib
from valkyrie.dataplane.application import appsocket
from valkyrie.dataplane.ports import DSCP, Rings
from valkyrie.dataplane.wire import Class

from . import settings_intrusion
from .settings_auth import Auth
from .settings_base import ClassName, Name, Settings
from .settings_intrusion import Intrusion
from .settings_peer import Peer
from .settings_security import Security

_RINGS = Rings()

PortNumber = Annotated[int, Meta(ge=1, le=65535)]
RingEntries = Annotated[int, Meta(ge=64, le=32768)]
Path = Literal["auto", "xdp", "udp"]
Controller = Literal["fixed", "delay", "cubic"]
"""In the order of enum vk_controller."""
RoleName = Literal["read", "tune", "load", "administer"]
Rate = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Burst = Annotated[int, Meta(ge=1, le=1_000_000)]
ByteRate = Annotated[int, Meta(ge=0, le=1_000_000_000_000)]
Quantum = Annotated[int, Meta(ge=1500, le=262_144)]
UserId = Annotated[int, Meta(ge=0, le=0xFFFFFFFE)]


class Node(Settings, frozen=True, kw_only=True):
    """The node itself."""

    name: Annotated[
        Name,
        Meta(
            description="Names the socket `<run_directory>/<name>.sock`, the counters object"
            " `/valkyrie.<name>` and the lock that refuses a second node of the same name."
        ),
    ] = "valkyrie"
    user: Annotated[str, Meta(description="User that the daemon and the workers run as.")] = (
        "nobody"
    )
    run_directory: Annotated[
        str, Meta(pattern="^/", description="Absolute path; holds the application socket.")
    ] = appsocket.SOCKET_DIRECTORY
    peers_file: Annotated[
        str,
        Meta(
            min_length=1,
            description="More [[peer]] tables, which `valkyrie peer add` and `peer remove` write."
            " Looked for beside the configuration unless the path is absolute.",
        ),
    ] = "peers.toml"
    udp_port: Annotated[
        PortNumber, Meta(description="UDP port of every frame, source and destination.")
    ] = lib.VK_PORT
    sandbox: Annotated[
        Literal["strict", "lenient"],
        Meta(
            description="What becomes of a worker or daemon that makes a system call it has no use"
            " for: `strict` ends it, and another one is started; `lenient`, for looking into that,"
            " lets the call fail with EPERM and has the kernel log it."
        ),
    ] = "strict"


class Interface(Settings, frozen=True, kw_only=True):
    """A network interface that frames come and go through."""

    name: Annotated[
        str, Meta(pattern=r"^[^/\s]{1,15}$", description="The kernel's name of the interface.")
    ]
    queues: Annotated[
        int,
        Meta(
            ge=0,
            le=lib.VK_PORTS_MAX,
            description="RX queues to serve by XDP, from queue 0 on. 0: all the device has; all"
            f" interfaces together can have {lib.VK_PORTS_MAX}, and one with more than are left is"
            " received from by the kernel's path. What comes by a queue that is not served is"
            " dropped: of fewer than the device has, `valkyrie up` and `valkyrie status` warn.",
        ),
    ] = 0
    path: Annotated[
        Path,
        Meta(
            description="How frames are received: `xdp` by AF_XDP, `udp` by kernel sockets with"
            " UDP_GRO; `auto` takes `xdp` on hardware whose driver runs XDP, with zero-copy or"
            " without, and `udp` elsewhere. A frame of AF_XDP holds 2 KiB: on an interface with"
            " jumbo frames drivers refuse XDP, and `udp` is taken. `valkyrie status` says what was"
            " chosen and why."
        ),
    ] = "auto"
    tx: Annotated[
        Path,
        Meta(
            description="How frames are sent: `xdp` by AF_XDP, `udp` by kernel sockets with"
            " UDP_SEGMENT, which obey the host's queueing disciplines."
        ),
    ] = "auto"
    reserve_frames: Annotated[
        int,
        Meta(
            ge=64,
            le=32768,
            description="Frames of a queue beyond the classes' RX rings: what the kernel may have"
            " in hand while every class's ring is full. A driver that can do zero-copy gets as many"
            " as its own RX ring holds on top.",
        ),
    ] = _RINGS.reserve
    tx_frames: Annotated[
        RingEntries, Meta(description="TX ring and frames to send from, a queue. A power of two.")
    ] = _RINGS.tx
    socket_buffer_bytes: Annotated[
        int,
        Meta(
            ge=65536,
            le=1073741824,
            description="Receive and send buffer of each class's socket on the kernel path.",
        ),
    ] = 8_388_608
    qdisc: Annotated[
        Literal["auto", "keep"],
        Meta(
            description="`auto` gives a virtual interface without one a `pfifo` while the node"
            " runs, because such an interface drops silently when its peer is behind; `keep`"
            " changes nothing."
        ),
    ] = "auto"


class ClassLimits(Settings, frozen=True, kw_only=True):
    """What a class may take of an interface, and of the sender's turns."""

    ring_frames: Annotated[
        RingEntries,
        Meta(
            description="RX ring of each queue on the XDP path, and as many frames of 2 KiB:"
            " what a class whose consumer stalls can hold. A power of two."
        ),
    ]
    rate_packets: Annotated[
        Rate,
        Meta(
            description="Packets per second and interface that the kernel lets in; 0 = no limit."
            " XDP shares them evenly between the queues it serves, and all frames of a peer come by"
            " one.",
            extra={"live": True},
        ),
    ] = 0
    burst_packets: Annotated[
        Burst,
        Meta(description="Packets let in at once after a pause.", extra={"live": True}),
    ] = 1024
    token: Annotated[
        bool,
        Meta(
            description="The kernel lets frames in only with a token, which peers get when they"
            " have proven who they are; others are dropped before they cost anything. Not for"
            " control: handshakes come before there is one. Static peers have none. A token is of"
            " the peer's address: where that changes in a session, behind a NAT, only frames of a"
            " class without are followed.",
            extra={"live": True},
        ),
    ] = False
    quantum_bytes: Annotated[
        Quantum,
        Meta(
            description="Share of the sender: bytes a turn while others wait. Critical and"
            " control always go first.",
            extra={"live": True},
        ),
    ] = 10_000
    dscp: Annotated[
        int,
        Meta(
            ge=0,
            le=63,
            description="How packets are marked for the network (RFC 2474). Better no two classes"
            " alike: a receiver's kernel may join packets that are, and drops those that turn out"
            " to be of another class than the first, to be sent again.",
        ),
    ] = 0


def _limits(klass: Class, **values: Any) -> ClassLimits:
    return ClassLimits(ring_frames=_RINGS.rx[klass], dscp=DSCP[klass], **values)


class Classes(Settings, frozen=True, kw_only=True):
    """Limits by class. The quanta are a cascade: of what the classes above leave, system takes
    80 %, job 60 % and data 80 %, so that logs have a quarter of what data has. Nobody's part is
    lost when he is silent.
    """

    control: ClassLimits = _limits(Class.CONTROL, rate_packets=2_000, burst_packets=256)
    critical: ClassLimits = _limits(Class.CRITICAL, rate_packets=100_000)
    system: ClassLimits = _limits(Class.SYSTEM, quantum_bytes=80_000)
    job: ClassLimits = _limits(Class.JOB, quantum_bytes=12_000)
    data: ClassLimits = _limits(Class.DATA, quantum_bytes=6_400)
    logs: ClassLimits = _limits(Class.LOGS, quantum_bytes=1_600)


class Source(Settings, frozen=True, kw_only=True):
    """Limit of every source address, whatever the class."""

    rate_packets: Annotated[
        Rate,
        Meta(
            description="Packets per second and address that the kernel lets in; 0 = no limit.",
            extra={"live": True},
        ),
    ] = 0
    burst_packets: Annotated[
        Burst, Meta(description="Packets let in at once after a pause.", extra={"live": True})
    ] = 4096


class Tokens(Settings, frozen=True, kw_only=True):
    """What peers get for classes with ``token``."""

    rotate_s: Annotated[
        int,
        Meta(
            ge=2,
            le=86_400,
            description="How long a token is good; a peer gets the next one after half of it. The"
            " key that makes them is replaced as often, and is good for twice that.",
        ),
    ] = 3_600


class Worker(Settings, frozen=True, kw_only=True):
    """The process that moves frames."""

    cpu: Annotated[
        int, Meta(ge=-1, le=4095, description="CPU to run on; -1 leaves it to the scheduler.")
    ] = -1
    spin_us: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="How long an idle worker polls at least before it sleeps, while that pays;"
            " twice as long as a wake takes on this host where that is more (200 µs at most). Saves"
            " wakes when frames come that often; costs CPU time. 0: never.",
            extra={"live": True},
        ),
    ] = 50
    budget_frames: Annotated[
        int,
        Meta(
            ge=1,
            le=lib.VK_BUDGET_FRAMES_MAX,
            description="Frames of one class a turn, behind which readers are woken and packets"
            " acknowledged.",
            extra={"live": True},
        ),
    ] = 256
    aggregate: Annotated[
        bool,
        Meta(
            description="Small messages of one class that wait together share a datagram.",
            extra={"live": True},
        ),
    ] = True
    reassembly_bytes: Annotated[
        int,
        Meta(
            ge=4 * lib.VK_SHARDED_MAX,
            le=1073741824,
            description="Memory for messages of which parts are missing.",
            extra={"live": True},
        ),
    ] = 33_554_432
    reassembly_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60000,
            description="A message still incomplete after this time is dropped.",
            extra={"live": True},
        ),
    ] = 500
    stamp: Annotated[
        bool,
        Meta(
            description="Put the sender's time on every message (12 bytes), for latency figures.",
            extra={"live": True},
        ),
    ] = False


class Transport(Settings, frozen=True, kw_only=True):
    """How streams share their paths, and how far they may be ahead of their readers."""

    controller: Annotated[
        Controller,
        Meta(
            description="Congestion control. `cubic` shares with TCP; `delay` keeps queues short"
            " where hosts answer at once; `fixed` sends without regard to others.",
            extra={"live": True},
        ),
    ] = "cubic"
    ack_delay_us: Annotated[
        int,
        Meta(
            ge=10,
            le=100_000,
            description="How long the acknowledgement of a lone packet waits for company.",
            extra={"live": True},
        ),
    ] = 1000
    window_bytes: Annotated[
        int,
        Meta(
            ge=lib.VK_WINDOW_START,
            le=1_073_741_824,
            description="How far the sender of a stream may be ahead of the application that reads"
            " it, at most. Streams begin with 64 KiB; on job and data their windows grow to about"
            " twice what is read in a round trip, and no further than the application's ring"
            " holds. System streams have a quarter of it, at most 256 KiB, fixed.",
            extra={"live": True},
        ),
    ] = 4_194_304
    memory_bytes: Annotated[
        int,
        Meta(
            ge=1_048_576,
            le=1_099_511_627_776,
            description="What the senders of all streams may be ahead of their readers, beyond the"
            " 64 KiB that every stream has. One peer gets as much of it as it leaves to others.",
            extra={"live": True},
        ),
    ] = 268_435_456
    session_bytes: Annotated[
        int,
        Meta(
            ge=lib.VK_CREDIT_POOL_MIN,
            le=1_099_511_627_776,
            description="What a peer may send on all those streams of which nothing was read yet."
            " One of its applications gets as much of it as it leaves to the others.",
        ),
    ] = 16_777_216
    streams_max: Annotated[
        int,
        Meta(
            ge=1,
            le=lib.VK_FLOWS_MAX,
            description="Streams that may be open with one peer at a time, whoever opened them. The"
            " smaller number of both nodes holds.",
        ),
    ] = lib.VK_FLOWS_MAX


class Session(Settings, frozen=True, kw_only=True):
    """How sessions with peers begin, and how long a silent peer is believed to be there."""

    eager: Annotated[
        bool,
        Meta(
            description="Shake hands with every peer at once, and again when it has gone. Without"
            " it only when an application wants to talk to it."
        ),
    ] = True
    handshake_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=600_000,
            description="A peer that has not answered for this long is unreachable: what was"
            " waiting for it is refused.",
        ),
    ] = 3_000
    retry_ms: Annotated[
        int,
        Meta(
            ge=100,
            le=3_600_000,
            description="How soon an unreachable peer is tried again; twice as long each time.",
        ),
    ] = 1_000
    retry_max_ms: Annotated[
        int, Meta(ge=100, le=3_600_000, description="The longest time between two tries.")
    ] = 30_000
    keepalive_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description="On a LAN: a peer that is silent for this long while streams are open is"
            " asked whether it lives. The shorter time of both nodes holds.",
        ),
    ] = 100
    keepalive_wan_ms: Annotated[
        int,
        Meta(
            ge=1_000,
            le=600_000,
            description="The same for a peer behind a router; varied by a quarter either way.",
        ),
    ] = 20_000
    keepalive_tries: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="A peer that has not answered so many questions is dead: its streams end.",
        ),
    ] = 3


class Application(Settings, frozen=True, kw_only=True):
    """A rule: who may attach, and to what. The first rule that matches decides; without one an
    application is refused.
    """

    name: Annotated[Name, Meta(description="Name of the rule, for messages.")]
    user: Annotated[str, Meta(description="The rule is for this user.")] = ""
    uid: Annotated[UserId | None, Meta(description="The same, by number.")] = None
    group: Annotated[str, Meta(description="The rule is for members of this group.")] = ""
    anybody: Annotated[bool, Meta(description="The rule is for every user of the host.")] = False
    classes: Annotated[
        list[ClassName],
        Meta(description="Classes it may use. Empty: those that `streams` lie in."),
    ] = field(default_factory=list)
    streams: Annotated[
        list[str | Annotated[int, Meta(ge=0, le=STREAM_MAX)]],
        Meta(
            description='Stream ids it may use, as `7` or `"100-199"`. Empty: all of `classes`.',
        ),
    ] = field(default_factory=list)
    listen: Annotated[
        list[str],
        Meta(
            description="Services it may offer, with `*` and `?` as in file names. An application"
            " has no more of the node's 256 than it leaves.",
        ),
    ] = field(default_factory=list)
    peers: Annotated[
        list[str],
        Meta(description="Peers it may open streams to: names or addresses, `*` and `?` too."),
    ] = field(default_factory=list)
    rate_messages: Annotated[
        Rate, Meta(description="Messages per second it may send; 0 = no limit.")
    ] = 0
    rate_bytes: Annotated[
        ByteRate, Meta(description="Payload bytes per second it may send; 0 = no limit.")
    ] = 0
    weight: Annotated[
        int,
        Meta(ge=1, le=1000, description="Its share of a class against other applications'."),
    ] = 100
    ring_bytes: Annotated[
        int,
        Meta(
            ge=lib.VK_RING_CAPACITY_MIN,
            le=lib.VK_RING_CAPACITY_MAX,
            description="Each class's ring and direction, where the application asks for no size."
            " A power of two.",
        ),
    ] = 1_048_576
    memory_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            le=68_719_476_736,
            description="All rings of one attachment: two a class granted, and 128 KiB.",
        ),
    ] = 67_108_864
    attachments_max: Annotated[
        int,
        Meta(
            ge=1, le=lib.VK_APPS_MAX, description="Attachments of one user under this rule at once."
        ),
    ] = 4
    sign: Annotated[
        int,
        Meta(
            ge=0,
            le=100,
            description="Batches of messages per second that one user may have signed by the"
            " node's identity, which speaks for the node; 0 = none.",
        ),
    ] = 0


class OperatorRule(Settings, frozen=True, kw_only=True):
    """A rule: who may look at the node and change it. Root and `node.user` may do everything;
    others have the roles of all rules that match them.
    """

    name: Annotated[Name, Meta(description="Name of the rule.")]
    user: Annotated[str, Meta(description="The rule is for this user.")] = ""
    uid: Annotated[UserId | None, Meta(description="The same, by number.")] = None
    group: Annotated[str, Meta(description="The rule is for members of this group.")] = ""
    anybody: Annotated[bool, Meta(description="The rule is for every user of the host.")] = False
    roles: Annotated[
        list[RoleName],
        Meta(
            min_length=1,
            description="`read`: status. `tune`: live keys. `load`: upgrade worker and programs."
            " `administer`: all that, stop, and what concerns peers. Who has any, or may attach,"
            " may read; attaching is for `[[application]]` to grant.",
        ),
    ]


class Config(Settings, frozen=True, kw_only=True):
    """Everything a node is told."""

    node: Node = Node()
    interfaces: Annotated[
        list[Interface],
        Meta(min_length=1, max_length=lib.VK_PORTS_MAX, description="At least one."),
    ] = field(name="interface", default_factory=list)
    classes: Classes = field(name="class", default=Classes())
    source: Source = Source()
    token: Tokens = Tokens()
    worker: Worker = Worker()
    transport: Transport = Transport()
    session: Session = Session()
    security: Security = Security()
    auth: Annotated[
        list[Auth],
        Meta(max_length=16, description="Without any, peers show their keys and no more."),
    ] = field(default_factory=list)
    peers: Annotated[list[Peer], Meta(max_length=lib.VK_PEERS_MAX, description="Known nodes.")] = (
        field(name="peer", default_factory=list)
    )
    applications: Annotated[
        list[Application],
        Meta(max_length=256, description="Rules, in order. None: nobody may attach."),
    ] = field(name="application", default_factory=list)
    operators: Annotated[
        list[OperatorRule],
        Meta(max_length=256, description="Without any only root and `node.user` administer."),
    ] = field(name="operator", default_factory=list)
    intrusion: Annotated[
        list[Intrusion],
        Meta(
            max_length=64,
            description="Without any: those of docs/AUDIT.md, which only tell.",
        ),
    ] = field(default_factory=lambda: list(settings_intrusion.DEFAULTS))
    file: str = ""
    """Where it was read, for messages; not a key."""


class PeersFile(Settings, frozen=True, kw_only=True):
    """What the file of `node.peers_file` may have."""

    peers: list[Peer] = field(name="peer", default_factory=list)
