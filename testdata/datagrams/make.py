#!/usr/bin/env python3
"""Sealed datagrams, one of each type, made without a line of the program.

Prints vectors.json. Needs python3-cryptography; HChaCha20 and so XChaCha20 are
written out here (draft-irtf-cfrg-xchacha-03).
"""
import base64
import hashlib
import json
import struct
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def hkdf(secret, info):
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)


class Identity:
    def __init__(self, byte):
        seed = bytes([byte]) * 32
        self.sign = raw(Ed25519PrivateKey.from_private_bytes(seed).public_key())
        self.private = X25519PrivateKey.from_private_bytes(hkdf(seed, b"sessio-path-v1"))
        self.path = raw(self.private.public_key())

    def device_id(self):
        blob = string(b"ssh-ed25519") + string(self.sign)
        digest = hashlib.sha256(b"sessio-device-v1\n" + blob + self.path).digest()
        return "d" + base64.b32encode(digest).decode().lower()[:25]


def string(b):
    return struct.pack(">I", len(b)) + b


def direction(sender, sender_kind, receiver, receiver_kind):
    secret = sender.private.exchange(X25519PublicKey.from_public_bytes(receiver.path))
    return hkdf(secret, b"sessio-seal-v1" + sender_kind + receiver_kind + sender.path + receiver.path)


def hchacha20(key, nonce16):
    state = list(struct.unpack("<4I", b"expand 32-byte k")) + list(struct.unpack("<8I", key)) + list(struct.unpack("<4I", nonce16))

    def quarter(a, b, c, d):
        for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) & 0xFFFFFFFF
            v = state[z] ^ state[x]
            state[z] = ((v << n) | (v >> (32 - n))) & 0xFFFFFFFF

    for _ in range(10):
        for i in range(4):
            quarter(i, i + 4, i + 8, i + 12)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<8I", *(state[:4] + state[12:]))


def seal(key, hint, nonce, body):
    header = b"\x01" + hint + nonce
    inner = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return header + inner.encrypt(b"\0\0\0\0" + nonce[16:], body, header)


def address(ip, port):
    v4 = b"\0" * 10 + b"\xff\xff" + bytes(int(x) for x in ip.split("."))
    return v4 + struct.pack(">H", port)


def head(kind, counter):
    return bytes([kind]) + b"SENDER01" + b"RECEIVE2" + struct.pack(">Q", counter)


def main():
    device, peer, coord = Identity(1), Identity(2), Identity(3)
    acct = hashlib.sha256(b"account").digest()
    proto = b"\x01\x01\x04v1.0"
    cookie, call, token, instance = b"c" * 16, b"call-id.", b"t" * 16, b"instance"
    cands = b"\x01" + address("192.0.2.1", 4000)
    here, there = address("198.51.100.7", 7), address("203.0.113.9", 9)
    second = bytes(16) + struct.pack(">H", 4243)
    inner = b"\x00\x05inner"
    bodies = {
        "beat": (1, "DC", proto + b"\x01" + cookie + cands + b"\x01" + b"sess" + b"\x02" + b"a client"),
        "beatAck": (2, "CD", proto + here + cookie + struct.pack(">QQ", 1700000000, 12) + b"h" * 32 + second),
        "hello": (3, "CD", cookie),
        "call": (4, "DC", proto + cookie + call + struct.pack(">Q", 1800000000) + peer.device_id().encode() + cands),
        "answer": (5, "CD", call + token + struct.pack(">I", 86400) + instance + here + there + second + cands),
        "ring": (6, "CD", call + token + struct.pack(">I", 86400) + peer.sign + peer.path + instance + there + cands),
        "refuse": (7, "CD", call + b"\x02" + struct.pack(">Q", 10800) + proto),
        "ack": (8, "DC", struct.pack(">Q", 77)),
        "news": (9, "CD", struct.pack(">Q", 13) + b"H" * 32),
        "ping": (10, "DD", struct.pack(">Q", 0x1122334455667788) + b"\x01"),
        "pong": (11, "DD", struct.pack(">Q", 0x1122334455667788) + here),
        "echo": (12, "DC", struct.pack(">Q", 21) + b"\x01" + bytes(17)),
        "echoAck": (13, "CD", struct.pack(">Q", 21) + here),
        "relay": (14, "DC", peer.device_id().encode() + instance + inner),
        "relayed": (15, "CD", there + inner),
        "note": (16, "DD", struct.pack(">QQBBbHHH", 31, 30, 1, 2, -1, 4000, 3000, 5000) + here + cands),
        "end": (17, "CD", b"an order" + b"\x02" + bytes([26]) + peer.device_id().encode() + b"\x02" + b"sessTION"),
    }
    out = {
        "acct": acct.hex(),
        "ids": {"device": device.device_id(), "peer": peer.device_id()},
        "paths": {"device": device.path.hex(), "peer": peer.path.hex(), "coord": coord.path.hex()},
        "datagrams": [],
    }
    for i, (name, (kind, ends, payload)) in enumerate(bodies.items()):
        sender, receiver = (coord, device) if ends == "CD" else (device, coord if ends == "DC" else peer)
        hint = hashlib.sha256(b"sessio-hint-v1\n" + acct + device.sign).digest()[:8]
        key = direction(sender, ends[0].encode(), receiver, ends[1].encode())
        body = head(kind, i + 1) + payload
        nonce = bytes(range(i, i + 24))
        out["datagrams"].append({"name": name, "ends": ends, "hint": hint.hex(), "key": key.hex(),
                                 "body": body.hex(), "datagram": seal(key, hint, nonce, body).hex()})
    json.dump(out, sys.stdout, indent=1)
    print()


main()
