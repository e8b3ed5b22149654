"""Sends a thousand flows to a virtual service and shows where they went: python examples/balance.py"""

from collections import Counter
from ipaddress import IPv4Address

import lvs


def datagram(client: str, port: int, service: str) -> bytes:
    """A UDP datagram without payload and without a UDP checksum."""
    addresses = IPv4Address(client).packed + IPv4Address(service).packed
    header = bytes.fromhex("4500001c 00000000 4011") + bytes(2) + addresses
    total = sum(int.from_bytes(header[i : i + 2], "big") for i in range(0, 20, 2))
    checksum = 0xFFFF - (total % 0xFFFF or 0xFFFF)
    return header[:10] + checksum.to_bytes(2, "big") + addresses + port.to_bytes(2, "big") + b"\0\x35\0\x08\0\0"


director = lvs.Director(seed=1)
director.restore("""
    -A -u 10.9.0.1:53 -s wrr
    -a -u 10.9.0.1:53 -r 10.0.2.11 -m -w 1
    -a -u 10.9.0.1:53 -r 10.0.2.12 -m -w 3
""")
packets = [datagram("172.16.0.9", 20_000 + flow, "10.9.0.1") for flow in range(1000)]
verdicts = director.process_many(packets, now=1.0)
for server, flows in sorted(Counter(str(verdict.next_hop) for verdict in verdicts).items()):
    print(f"{server} {flows:4} {'#' * (flows // 25)}")
print(director.table(), end="")
