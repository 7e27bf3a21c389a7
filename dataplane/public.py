"""Valkyrie: messages between applications, in five classes, by way of each host's node.

    with valkyrie.attach_sync() as node, node.listen("greeter") as greeter:
        for message in greeter.accept():
            print(message.payload)

    with valkyrie.attach_sync() as node:
        with node.connect("10.9.0.2").open("greeter", stream=100) as stream:
            stream.send(b"hello, world")

``attach()`` is the same for asyncio; docs/API.md tells the rest.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from valkyrie.dataplane.application.message import Batch, Message
    from valkyrie.dataplane.application.node import (
        Node,
        Service,
        SyncNode,
        SyncService,
        attach,
        attach_sync,
        prefer_latency,
    )
    from valkyrie.dataplane.application.peer import Peer, SyncPeer
    from valkyrie.dataplane.application.refusal import (
        ApplicationGoneError,
        NodeGoneError,
        NoPeerError,
        NoServiceError,
        PolicyError,
        RefusedError,
        SmallBufferError,
        StreamInUseError,
        StreamResetError,
        StreamsFullError,
        StreamUnknownError,
        UnreachableError,
        UntrustedError,
        WouldBlockError,
    )
    from valkyrie.dataplane.application.stream import Stream, SyncStream
    from valkyrie.dataplane.errors import DataPlaneError, LocalProtocolError, ValkyrieError
    from valkyrie.dataplane.files.filereceive import receive_files
    from valkyrie.dataplane.files.filesend import send_file
    from valkyrie.dataplane.files.filestore import Directory, Rules
    from valkyrie.dataplane.files.transfer import TransferError
    from valkyrie.dataplane.signing.seal import Seal, SealError, verify
    from valkyrie.dataplane.wire import Class, Flag, Type
    from valkyrie.shm import local

__all__ = [
    "ApplicationGoneError",
    "Batch",
    "Class",
    "DataPlaneError",
    "Directory",
    "Flag",
    "LocalProtocolError",
    "Message",
    "NoPeerError",
    "NoServiceError",
    "Node",
    "NodeGoneError",
    "Peer",
    "PolicyError",
    "RefusedError",
    "Rules",
    "Seal",
    "SealError",
    "Service",
    "SmallBufferError",
    "Stream",
    "StreamInUseError",
    "StreamResetError",
    "StreamUnknownError",
    "StreamsFullError",
    "SyncNode",
    "SyncPeer",
    "SyncService",
    "SyncStream",
    "TransferError",
    "Type",
    "UnreachableError",
    "UntrustedError",
    "ValkyrieError",
    "WouldBlockError",
    "__version__",
    "attach",
    "attach_sync",
    "local",
    "prefer_latency",
    "receive_files",
    "send_file",
    "verify",
]

__version__ = version("valkyrie")

_MODULES = (
    "application.message",  # first: what signing takes has the same name in application.node
    "application.node",
    "application.peer",
    "application.stream",
    "application.refusal",
    "errors",
    "wire",
    "files.filereceive",
    "files.filesend",
    "files.filestore",
    "files.transfer",
    "signing.seal",
)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # who checks types would take any name for a good one

    def __getattr__(name: str) -> Any:
        """Import the public names when they are first used: ``import valkyrie`` loads nothing."""
        if name == "local":
            return import_module("valkyrie.shm.local")
        if name in __all__:
            for module in _MODULES:
                found = import_module(f"valkyrie.dataplane.{module}")
                if hasattr(found, name):
                    globals()[name] = value = getattr(found, name)
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
