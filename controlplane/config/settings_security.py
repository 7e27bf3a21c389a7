"""The table ``[security]``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from valkyrie.controlplane.security.modes import ZERO_TRUST_LIFETIME_NS
from valkyrie.dataplane import lib
from valkyrie.dataplane.units import NS_PER_S

from .settings_base import Settings

ModeName = Literal["plaintext", "token", "noise", "mtls", "post_quantum", "zero_trust"]
"""The names of security/modes.py, weakest first."""
ZERO_TRUST_S = ZERO_TRUST_LIFETIME_NS // NS_PER_S
IDENTITY_FILE = "/etc/valkyrie/identity.key"
SignatureName = Literal["ml_dsa_65", "fn_dsa_512"]
CipherName = Literal["aes_256_gcm", "chacha20_poly1305"]


class Security(Settings, frozen=True, kw_only=True):
    """Who this node is, and how its sessions are protected. Encrypted and authenticated unless
    `modes` says otherwise; what peers would do with less does not matter. Files are looked for
    beside the configuration unless their paths are absolute.
    """

    identity_file: Annotated[
        str,
        Meta(
            min_length=1,
            description="The node's private keys, for its owner only (mode 0600). Made on the first"
            " start, unless `modes` is only `plaintext`.",
        ),
    ] = IDENTITY_FILE
    modes: Annotated[
        list[ModeName],
        Meta(
            min_length=1,
            description="What sessions may be; two nodes take the strongest that both have."
            ' With `["plaintext"]` alone nothing is protected, and peers need no fingerprint.',
        ),
    ] = field(default_factory=lambda: ["noise", "post_quantum"])
    min_mode: Annotated[
        ModeName | None,
        Meta(description="The least that will do; without it the weakest of `modes`."),
    ] = None
    require_pq: Annotated[
        bool,
        Meta(
            description="Only keys that a quantum computer cannot find: `post_quantum`,"
            " `zero_trust`, and `mtls` with X25519MLKEM768."
        ),
    ] = False
    ciphers: Annotated[
        list[CipherName], Meta(min_length=1, description="Of frames, best first.")
    ] = field(default_factory=lambda: ["aes_256_gcm", "chacha20_poly1305"])
    signatures: Annotated[
        list[SignatureName],
        Meta(
            min_length=1,
            description="What `post_quantum` and `zero_trust` sign with beside Ed25519, best first;"
            " the first that both nodes have. `fn_dsa_512` is smaller and quicker, and its standard"
            " not final: it needs `pip install 'valkyrie[fn-dsa]'`, and an identity that was made"
            " with it (docs/SECURITY.md).",
        ),
    ] = field(default_factory=lambda: ["ml_dsa_65"])
    rotate_s: Annotated[
        int,
        Meta(
            ge=1,
            le=lib.VK_ROTATE_MS // 1000,
            description="How long a key seals frames before the next one does.",
            extra={"live": True},
        ),
    ] = lib.VK_ROTATE_MS // 1000
    zero_trust_session_s: Annotated[
        int,
        Meta(
            ge=10,
            le=ZERO_TRUST_S,
            description="For `zero_trust`: how long a session lasts at most. It is made anew"
            " before, and its streams go on.",
        ),
    ] = ZERO_TRUST_S
    zero_trust_proof_s: Annotated[
        int,
        Meta(
            ge=1,
            le=ZERO_TRUST_S,
            description="For `zero_trust`: how often a peer has to prove itself anew within a"
            " session.",
        ),
    ] = 60
    zero_trust_answer_s: Annotated[
        int,
        Meta(
            ge=1,
            le=60,
            description="For `zero_trust`: how long it has for that before its session ends.",
        ),
    ] = 10
    secrets_file: Annotated[
        str,
        Meta(
            description="For `token`: secrets shared with peers, one a line as `valkyrie key"
            " token` prints them; mode 0600."
        ),
    ] = ""
    certificate_file: Annotated[
        str,
        Meta(
            description="For `mtls`: this node's certificate and what is between it and the root,"
            " in PEM."
        ),
    ] = ""
    certificate_key_file: Annotated[
        str, Meta(description="For `mtls`: the certificate's private key, in PEM; mode 0600.")
    ] = ""
    roots_file: Annotated[
        str, Meta(description="For `mtls`: certificates of the roots that peers' lead to, in PEM.")
    ] = ""
    crl_file: Annotated[
        str,
        Meta(
            description="For `mtls`: lists of revoked certificates, signed by roots of"
            " `roots_file`, in PEM (`valkyrie cert revoke`; docs/AUDIT.md). Looked at all the time."
        ),
    ] = ""
    crl_stale: Annotated[
        Literal["refuse", "accept"],
        Meta(
            description="What becomes of peers with certificates when a list in `crl_file` is too"
            " old to be believed: their sessions end and none begins, or they go on with what is"
            " known. Either way it is said."
        ),
    ] = "refuse"
    revoked_file: Annotated[
        str,
        Meta(
            min_length=1,
            description="Peers that are let in no more (docs/AUDIT.md); looked at all the time, so"
            " that `node.user` has to be able to read it. There may be none.",
        ),
    ] = "revoked.toml"
    audit_file: Annotated[
        str,
        Meta(
            pattern=r"^(|off|/.*[^/])$",
            description="The audit log (docs/AUDIT.md). Empty:"
            " `/var/lib/valkyrie/<name of the node>/audit.jsonl`. `off` keeps none.",
        ),
    ] = ""
    audit_rotate_mib: Annotated[
        int,
        Meta(
            ge=0,
            le=65_536,
            description="The audit log goes on in a new file when it has become so large; 0: never"
            " for that.",
        ),
    ] = 64
    audit_rotate_days: Annotated[
        int,
        Meta(ge=0, le=36_500, description="The same when its first record is so old; 0: never."),
    ] = 0
    audit_keep: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="How many older files of the audit log stay; 0: all. What is removed is put"
            " on record before.",
        ),
    ] = 0
