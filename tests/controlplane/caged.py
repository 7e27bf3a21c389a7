"""A child in a sandbox that tries one thing, and what came of it.

Run as a program it forks a child for each attempt, so that neither pytest nor its threads are in
the sandbox: ``python caged.py worker|daemon|landlock strict|lenient DIRECTORY`` prints a JSON
object of attempt -> "ok", an errno's name or "SIGSYS". "landlock" is root under Landlock alone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from valkyrie.controlplane.broker import broker
from valkyrie.controlplane.confinement import landlock, sandbox
from valkyrie.controlplane.confinement.privileges import User
from valkyrie.controlplane.host import facts
from valkyrie.dataplane import lib

libc = ctypes.CDLL(None, use_errno=True)
_NUMBERS = {  # asm/unistd.h
    "x86_64": {"ptrace": 101, "mount": 165, "setns": 308, "clone3": 435, "init_module": 175,
               "kexec_load": 246, "userfaultfd": 323, "process_vm_readv": 310, "unshare": 272},
    "aarch64": {"ptrace": 117, "mount": 40, "setns": 268, "clone3": 435, "init_module": 105,
                "kexec_load": 104, "userfaultfd": 282, "process_vm_readv": 270, "unshare": 97},
}  # fmt: skip
NUMBERS = _NUMBERS.get(platform.machine(), {})
AF_VSOCK = 40
CODE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
WORKER = ctypes.CDLL(str(broker.LIBRARY))
STRANGER = os.getpid()
"""A process that is not in the sandbox: who is in it is a child of it."""


def failed(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def call(number: int, *arguments: int) -> None:
    failed(libc.syscall(number, *(ctypes.c_ulong(each) for each in arguments)))


def map_code() -> None:
    mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=CODE).close()


def protect(rights: int) -> None:
    area = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    failed(libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(4096), rights))


def run_thread() -> None:
    thread = threading.Thread(target=time.monotonic)
    thread.start()
    thread.join()


def fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def make_socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def connect_tcp(port: int) -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", port))


def connect_abstract(name: str) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(name)


def make_ciphers() -> None:
    for cipher in (lib.VK_CIPHER_CHACHA20_POLY1305, lib.VK_CIPHER_AES_256_GCM):
        aead = ctypes.create_string_buffer(256)  # struct vk_aead, and room
        if WORKER.vk_aead_init(aead, cipher, bytes(32), 1):
            raise OSError(errno.EIO, "")
        WORKER.vk_aead_free(aead)


def attempts(directory: Path, port: int) -> dict[str, Callable[[], object]]:
    found: dict[str, Callable[[], object]] = {
        "open /etc/hostname": lambda: os.open("/etc/hostname", os.O_RDONLY),
        "open /etc/passwd": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "read allowed": lambda: os.read(os.open(directory / "reads" / "file", os.O_RDONLY), 1),
        "write read-only": lambda: os.open(directory / "reads" / "file", os.O_WRONLY),
        "create a file": lambda: os.open(directory / "reads" / "new", os.O_CREAT | os.O_WRONLY),
        "execve": lambda: os.execv("/bin/true", ["true"]),
        "fork": fork,
        "thread": run_thread,
        "map code": map_code,
        "map data": lambda: mmap.mmap(-1, 4096).close(),
        "make code of data": lambda: protect(mmap.PROT_READ | mmap.PROT_EXEC),
        "protect data": lambda: protect(mmap.PROT_READ),
        "signal a stranger": lambda: os.kill(STRANGER, 0),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "socket AF_PACKET": lambda: make_socket(socket.AF_PACKET, socket.SOCK_DGRAM),
        "socket AF_VSOCK": lambda: make_socket(AF_VSOCK),
        "socket AF_INET": lambda: make_socket(socket.AF_INET),
        "socket AF_NETLINK": lambda: make_socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "connect by TCP": lambda: connect_tcp(port),
        "connect to an abstract socket": lambda: connect_abstract(f"\0valkyrie-test-{STRANGER}"),
        "bpf": lambda: call(facts.SYS_BPF[platform.machine()], 0, 0, 0),
        "write an error": lambda: os.write(2, b""),
        "clock": time.monotonic,
        "make ciphers": make_ciphers,
    }
    for name, number in NUMBERS.items():
        found[name] = lambda number=number: call(number, 0, 0, 0, 0, 0)  # type: ignore[misc]
    return found


def tried(enter: Callable[[int], None], attempt: Callable[[], object]) -> str:
    parent = os.getpid()

    def child() -> NoReturn:
        enter(parent)
        number = 0
        try:
            attempt()
        except OSError as error:
            number = error.errno or 255
        except RuntimeError:  # can't start new thread
            number = errno.EAGAIN
        os._exit(number)

    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        try:
            child()
        finally:
            os._exit(254)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return signal.Signals(-code).name
    return errno.errorcode.get(code, str(code)) if code else "ok"


def main(who: str, mode: str, folder: str) -> None:
    directory = Path(folder)
    user = User(65534, 65534)
    assert WORKER.vk_worker_load() == 0

    def enter_worker(parent: int) -> None:
        sandbox.enter_worker(user, parent)
        if WORKER.vk_worker_confine(sandbox.CONFINE[mode]):
            os._exit(253)

    def enter_daemon(parent: int) -> None:
        sandbox.enter_daemon(user, parent, mode, [directory / "reads"])  # type: ignore[arg-type]

    def enter_landlock(_parent: int) -> None:
        landlock.restrict([directory / "reads"])

    enter = {"worker": enter_worker, "daemon": enter_daemon, "landlock": enter_landlock}[who]
    abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0valkyrie-test-{STRANGER}")
    abstract.listen()
    with abstract, socket.create_server(("127.0.0.1", 0)) as server:
        found = attempts(directory, server.getsockname()[1])
        print(json.dumps({name: tried(enter, each) for name, each in found.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
