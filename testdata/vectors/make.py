#!/usr/bin/python3
"""Makes the vectors that the Go tests compare with, from the text of the format
alone: python3 make.py DIR. Needs python3-cryptography (Debian). Nothing here is
random, so two runs write the same bytes; once released they never change."""

import base64
import hashlib
import hmac
import json
import os
import struct
import sys

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils, x25519
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

RAW = (Encoding.Raw, PublicFormat.Raw)


# --- encodings


def sha256(b):
    return hashlib.sha256(b).digest()


def sstr(b):
    """An SSH string."""
    if isinstance(b, str):
        b = b.encode()
    return struct.pack(">I", len(b)) + b


def mpint(n):
    """An SSH multiple precision integer."""
    return sstr(n.to_bytes(n.bit_length() // 8 + 1, "big") if n else b"")


def base32(b):
    return base64.b32encode(b).decode().lower().rstrip("=")


def base64std(b):
    return base64.b64encode(b).decode()


def words(b):
    out = []
    for i in range(0, len(b), 2):
        n = b[i] << 8 | b[i + 1]
        out.append("bdfghjklmnprstvz"[n >> 12] + "aiou"[n >> 10 & 3] + "bdfghjklmnprstvz"[n >> 6 & 15]
                   + "aiou"[n >> 4 & 3] + "bdfghjklmnprstvz"[n & 15])
    return "-".join(out)


def hkdf(secret, info, length=32):
    """HKDF-SHA-256 without salt (RFC 5869)."""
    prk = hmac.new(b"\0" * 32, secret, "sha256").digest()
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), "sha256").digest()
        out, i = out + block, i + 1
    return out[:length]


# --- machines


class Machine:
    """The keys of a device or coordinator, from the seed of its identity."""

    def __init__(self, name):
        self.name = name
        self.seed = sha256(b"machine " + name.encode())
        self.sign = ed25519.Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes(*RAW)
        self.path_seed = hkdf(self.seed, b"sessio-path-v1")
        self.path = x25519.X25519PrivateKey.from_private_bytes(self.path_seed).public_key().public_bytes(*RAW)
        self.blob = sstr("ssh-ed25519") + sstr(self.sign)

    def hash(self, domain):
        return sha256(domain + self.blob + self.path)

    def device_id(self):
        return "d" + base32(self.hash(b"sessio-device-v1\n"))[:25]

    def coord_id(self):
        return base32(self.hash(b"sessio-coord-v1\n"))


# --- signers

# P-256 (FIPS 186-4, D.1.2.3), for signatures that are the same every time.
P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
     0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5)


def p256_add(a, b):
    if a is None or b is None:
        return a or b
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        m = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        m = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (m * m - a[0] - b[0]) % P
    return x, (m * (a[0] - x) - a[1]) % P


def p256_mul(k, point):
    out = None
    while k:
        if k & 1:
            out = p256_add(out, point)
        point, k = p256_add(point, point), k >> 1
    return out


def p256_sign(d, message):
    """ECDSA with SHA-256 and the nonce of RFC 6979."""
    digest = sha256(message)
    h = (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    key, v = b"\0" * 32, b"\1" * 32
    for sep in (b"\0", b"\1"):
        key = hmac.new(key, v + sep + d.to_bytes(32, "big") + h, "sha256").digest()
        v = hmac.new(key, v, "sha256").digest()
    while True:
        v = hmac.new(key, v, "sha256").digest()
        k = int.from_bytes(v, "big")
        if 0 < k < N:
            r = p256_mul(k, G)[0] % N
            s = pow(k, -1, N) * (int.from_bytes(digest, "big") + r * d) % N
            if r and s:
                break
        key = hmac.new(key, v + b"\0", "sha256").digest()
        v = hmac.new(key, v, "sha256").digest()
    public = ec.derive_private_key(d, ec.SECP256R1()).public_key()
    public.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    return mpint(r) + mpint(s)


class Signer:
    kind = "ssh"

    def __init__(self, label, powers, type="ssh-ed25519", seed=None):
        self.label, self.powers, self.type = label, powers, type
        self.seed = seed or sha256(b"signer " + label.encode())
        if "ed25519" in type:
            self.key = ed25519.Ed25519PrivateKey.from_private_bytes(self.seed)
            public = sstr(self.key.public_key().public_bytes(*RAW))
        else:
            self.key = int.from_bytes(self.seed, "big") % N
            x, y = p256_mul(self.key, G)
            public = sstr("nistp256") + sstr(b"\4" + x.to_bytes(32, "big") + y.to_bytes(32, "big"))
        self.blob = sstr(type) + public + (sstr("ssh:") if type.startswith("sk-") else b"")
        self.id = signer_id(self.kind, self.blob)

    def line(self):
        return f"signer {self.id} ssh {self.powers} {self.label} {self.type} {base64std(self.blob)}\n"

    def raw_sign(self, message):
        if "ed25519" in self.type:
            return sstr(self.key.sign(message))
        return sstr(p256_sign(self.key, message))

    def sign(self, statement):
        """An SSHSIG blob; security keys as OpenSSH's PROTOCOL.u2f, flags UP and UV, counter 9."""
        message = sshsig_input(statement)
        rest = b""
        if self.type.startswith("sk-"):
            rest = b"\x05" + struct.pack(">I", 9)
            message = sha256(b"ssh:") + rest + sha256(message)
        signature = sstr(self.type) + self.raw_sign(message) + rest
        return (b"SSHSIG" + struct.pack(">I", 1) + sstr(self.blob) + sstr("sessio-trust@v1") + sstr("")
                + sstr("sha512") + sstr(signature))


def signer_id(kind, material):
    return "s" + base32(sha256(b"sessio-signer-v1\n" + kind.encode() + b"\n" + material))[:25]


def sshsig_input(statement):
    return b"SSHSIG" + sstr("sessio-trust@v1") + sstr("") + sstr("sha512") + sstr(hashlib.sha512(statement).digest())


def recovery_text(seed):
    body = b"\1" + seed
    text = base32(body + sha256(b"sessio-recovery-v1\n" + body)[:2])
    return "-".join(text[i:i + 4] for i in range(0, len(text), 4))


# --- the log


class Log:
    def __init__(self):
        self.acct = self.prev = "0" * 64
        self.time = 1800000000
        self.rows = []

    def add(self, op, lines, signers, devices, active, note=""):
        """devices and active are who is left after it, as the format's text says."""
        statement = (f"sessio-statement-v1\nacct {self.acct}\nseq {len(self.rows)}\nprev {self.prev}\n"
                     f"time {self.time}\nop {op}\n{lines}").encode()
        record = sstr(statement) + struct.pack(">I", len(signers))
        for s in signers:
            record += sstr(s.id) + sstr(s.kind) + sstr(s.sign(statement))
        self.prev = sha256(statement).hex()
        if not self.rows:
            self.acct = self.prev
        self.time += 60
        self.rows.append({"op": op, "note": note, "statement": statement.decode(), "signed": sshsig_input(statement).hex(),
                          "record": record.hex(), "head": self.prev, "headWords": words(bytes.fromhex(self.prev)[:8]),
                          "devices": sorted(d.name for d in devices), "signers": sorted(s.label for s in active)})


def sorted_lines(signers):
    return "".join(sorted(s.line() for s in signers))


def grant(roles, users, caps, expires=0):
    return f"roles {roles}\nusers {users}\ncaps {caps}\nexpires {expires}\n"


def device_lines(m, *args):
    return (f"device {m.device_id()}\nname {m.name}\nkey ssh-ed25519 {base64std(m.blob)}\n"
            f"path {base64std(m.path)}\n" + grant(*args))


ALL = "exec,forward,pty,sftp,shell"


def trust():
    """trust.json: one account, with a record of each op."""
    alice, bob = Signer("alice", "ds"), Signer("bob", "s", "ecdsa-sha2-nistp256")
    recovery = Signer("recovery", "r", seed=sha256(b"recovery"))
    token = Signer("token", "d", "sk-ssh-ed25519@openssh.com")
    fresh, sk = Signer("fresh", "ds"), Signer("sk", "ds", "sk-ecdsa-sha2-nistp256@openssh.com")
    attic, laptop, spare = Machine("attic"), Machine("laptop"), Machine("spare")
    log = Log()
    log.add("genesis", "nonce 000102030405060708090a0b0c0d0e0f\n" + sorted_lines([alice, bob, recovery]),
            [alice, bob], [], [alice, bob, recovery])
    log.add("signer.add", token.line(), [bob, token], [], [alice, bob, recovery, token])
    log.add("device.add", device_lines(attic, "server", "alice,root", "exec,shell"),
            [alice], [attic], [alice, bob, recovery, token])
    log.add("device.add", device_lines(laptop, "client", "*", ALL, 1900000000),
            [alice], [attic, laptop], [alice, bob, recovery, token])
    log.add("device.add", device_lines(spare, "client,server", "-", ALL),
            [token], [attic, laptop, spare], [alice, bob, recovery, token])
    log.add("device.update", f"device {attic.device_id()}\nname attic\n" + grant("server", "*", ALL),
            [alice], [attic, laptop, spare], [alice, bob, recovery, token])
    log.add("signer.remove", f"signer-id {token.id}\nsince 4\n",
            [bob], [attic, laptop], [alice, bob, recovery], "takes back what token alone did from statement 4 on")
    log.add("device.revoke", f"device {laptop.device_id()}\nreason stolen\n",
            [bob], [attic], [alice, bob, recovery])
    log.add("recover", "since 0\n" + sorted_lines([fresh, sk]),
            [recovery, fresh, sk], [attic], [fresh, recovery, sk])
    coord = Machine("coordinator")
    log.add("coordinators", f"coordinator coord.example.com:7722 {base64std(coord.sign)} {base64std(coord.path)}\n",
            [sk], [attic], [fresh, recovery, sk], "reserved")
    log.add("merge", "other " + sha256(b"another head").hex() + "\n",
            [fresh], [attic], [fresh, recovery, sk], "reserved")
    return {"acct": log.acct, "acctWords": words(bytes.fromhex(log.acct)[:12]), "records": log.rows}


def ids():
    """ids.json: keys, ids and words from seeds; the recovery key as it is spelt."""
    machines = []
    for name in ("attic", "laptop", "coordinator"):
        m = Machine(name)
        machines.append({"seed": m.seed.hex(), "sign": m.sign.hex(), "pathSeed": m.path_seed.hex(), "path": m.path.hex(),
                         "blob": m.blob.hex(), "device": m.device_id(),
                         "deviceWords": words(m.hash(b"sessio-device-v1\n")[:8]), "coord": m.coord_id()})
    signers = [{"type": s.type, "blob": s.blob.hex(), "id": s.id, "line": s.line()} for s in (
        Signer("alice", "ds"), Signer("bob", "s", "ecdsa-sha2-nistp256"),
        Signer("token", "d", "sk-ssh-ed25519@openssh.com"), Signer("sk", "r", "sk-ecdsa-sha2-nistp256@openssh.com"))]
    cose = bytes.fromhex("a4010103272006215820") + sha256(b"cose")
    seeds = [bytes(32), bytes(range(32)), b"\xff" * 32, sha256(b"recovery")]
    return {"machines": machines, "signers": signers,
            "webauthn": {"cose": cose.hex(), "id": signer_id("webauthn", cose)},
            "recovery": [{"seed": s.hex(), "text": recovery_text(s), "signer": Signer("recovery", "r", seed=s).line()}
                         for s in seeds]}


# Every file that the Go tests read. Datagrams: one function more, and its name here.
FILES = {
    "ids.json": ids,
    "trust.json": trust,
}


def main(directory):
    for name, make in FILES.items():
        with open(os.path.join(directory, name), "w") as f:
            json.dump(make(), f, indent=1, sort_keys=True)
            f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
