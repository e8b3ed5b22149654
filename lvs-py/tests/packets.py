"""IPv4 packets built by hand, and the checks that a receiver would make."""

from ipaddress import IPv4Address

UDP, TCP, ICMP = 17, 6, 1
SYN, ACK, RST = 0x02, 0x10, 0x04


def ones_sum(data: bytes) -> int:
    """The ones' complement sum of RFC 1071; 0xFFFF over data that includes its own right checksum."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(protocol: int, source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + bytes([0, protocol]) + length.to_bytes(2, "big")


def ipv4(protocol: int, source: str, destination: str, payload: bytes, *, ttl: int = 64, df: bool = True) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    length = (20 + len(payload)).to_bytes(2, "big")
    flags = b"\x40\0" if df else b"\0\0"
    start = b"\x45\0" + length + b"\x12\x34" + flags + bytes([ttl, protocol])
    checksum = 0xFFFF - ones_sum(start + addresses)
    return start + checksum.to_bytes(2, "big") + addresses + payload


def with_ports(
    protocol: int, source: tuple[str, int], destination: tuple[str, int], rest: bytes, at: int, **ip: int
) -> bytes:
    """A segment of two ports and `rest`, whose checksum stands `at` bytes from its start."""
    segment = source[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big") + rest
    ends = IPv4Address(source[0]).packed, IPv4Address(destination[0]).packed
    checksum = 0xFFFF - ones_sum(pseudo_header(protocol, *ends, len(segment)) + segment)
    segment = segment[:at] + checksum.to_bytes(2, "big") + segment[at + 2 :]
    return ipv4(protocol, source[0], destination[0], segment, **ip)


def udp(source: tuple[str, int], destination: tuple[str, int], data: bytes = b"hello", **ip: int) -> bytes:
    length = (8 + len(data)).to_bytes(2, "big")
    return with_ports(UDP, source, destination, length + b"\0\0" + data, 6, **ip)


def tcp(source: tuple[str, int], destination: tuple[str, int], flags: int, data: bytes = b"", **ip: int) -> bytes:
    fixed = (1000).to_bytes(4, "big") + bytes(4) + bytes([0x50, flags]) + b"\xff\xff" + bytes(4)
    return with_ports(TCP, source, destination, fixed + data, 16, **ip)


def fragment(packet: bytes, start: int, end: int) -> bytes:
    """The fragment of a packet that carries its payload from `start` to `end`, in bytes."""
    payload = packet[20:]
    more = 0x2000 if end < len(payload) else 0
    length, offset = (20 + end - start).to_bytes(2, "big"), (start // 8 | more).to_bytes(2, "big")
    header = packet[:2] + length + packet[4:6] + offset + packet[8:10] + bytes(2) + packet[12:20]
    checksum = 0xFFFF - ones_sum(header)
    return header[:10] + checksum.to_bytes(2, "big") + header[12:] + payload[start:end]


def source_of(packet: bytes) -> tuple[str, int]:
    return str(IPv4Address(packet[12:16])), int.from_bytes(packet[20:22], "big")


def destination_of(packet: bytes) -> tuple[str, int]:
    return str(IPv4Address(packet[16:20])), int.from_bytes(packet[22:24], "big")


def is_valid(packet: bytes) -> bool:
    """Whether length and both checksums are what a receiver accepts."""
    segment = packet[20:]
    pseudo = pseudo_header(packet[9], packet[12:16], packet[16:20], len(segment))
    whole = int.from_bytes(packet[2:4], "big") == len(packet)
    return whole and ones_sum(packet[:20]) == 0xFFFF and ones_sum(pseudo + segment) == 0xFFFF
