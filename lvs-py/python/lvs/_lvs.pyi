"""The compiled half of `lvs`; import names from `lvs` instead."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, Self, final

from typing_extensions import Buffer

__all__ = ["Connection", "Director", "Verdict"]

@final
class Connection:
    """One connection of the table, as it was when it was listed.

    Endpoints are text, "ADDRESS:PORT" with IPv6 addresses in brackets, as Director.explain() takes them.
    """

    @property
    def protocol(self) -> Literal["TCP", "UDP", "SCTP"]:
        """"TCP", "UDP" or "SCTP"."""

    @property
    def client(self) -> str:
        """The client: CIP and port."""

    @property
    def service(self) -> str:
        """What the client addressed: VIP and port."""

    @property
    def server(self) -> str:
        """Where its packets go: RIP and port."""

    @property
    def local(self) -> str:
        """Whom the server answers: the client, or a local address and port in FULLNAT."""

    @property
    def method(self) -> Literal["Masq", "Route", "Tunnel", "FullNat", "Local", "Bypass"]:
        """ipvsadm's word for the forwarding method: "Masq", "Route", "Tunnel", "FullNat", "Local" or "Bypass"."""

    @property
    def state(self) -> str:
        """The kernel's name of the state, such as "ESTABLISHED" or "UDP"."""

    @property
    def mark(self) -> int:
        """Mark of the packet that opened it; 0 is none."""

    @property
    def packets(self) -> int:
        """Packets from the client so far."""

    @property
    def expires(self) -> float:
        """When it ends if no packet comes, in seconds on the clock of the caller's times."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment]

@final
class Director:
    """A Linux Virtual Server director without I/O: one packet in, one verdict out.

    Times are seconds on any one clock, given by the caller; nothing here reads a clock. A time that is left
    out is the latest that the director was given, at first 0. The same seed, rules, packets and times give the
    same verdicts. All methods may be called from several threads; they take turns.

    seed: secret of the hash tables.
    connections: how many fit into the table, per address family; the memory is reserved at once.
    addresses: the director's own; the first of each family is the source of its tunnels and ICMP errors.
    mtu: of every link, in bytes.
    answer: whether the director answers as a host would (RST, port unreachable, echo reply) and drops what
        is not for it. Without, such packets get the verdict "pass".
    sysctl: switches of net.ipv4.vs by name, such as {"expire_nodest_conn": 1}.

    Raises ArgumentError when one of them cannot be.
    """

    def __new__(
        cls,
        *,
        seed: int = 0,
        connections: int = 65536,
        addresses: Sequence[str | IPv4Address | IPv6Address] = (),
        mtu: int = 1500,
        answer: bool = True,
        sysctl: dict[str, int] | None = None,
    ) -> Self: ...

    def restore(self, text: str, now: float | None = None) -> None:
        """Carries out rules as `ipvsadm -R` reads them, one a line: all of them or none.

        They add to the rules that are there; begin with a line `-C` to start afresh.

        Raises RuleError, whose errors name each line that is wrong.
        """

    def save(self) -> str:
        """Returns the rules as text that restore() and `ipvsadm -R` read."""

    def process(self, packet: Buffer, now: float | None = None, *, mark: int = 0) -> Verdict:
        """Takes one IP packet through the director.

        packet: from its IP header on, as anything that holds bytes; it is copied, not changed.
        mark: the packet's firewall mark, for services by mark (`-f`); 0 is none.

        No packet raises an exception, whatever is in it: what cannot be gets the verdict "drop".
        """

    def process_many(self, packets: Iterable[Buffer], now: float | None = None) -> list[Verdict]:
        """Takes packets through the director in order, as process() would one by one, and returns their verdicts.

        Other Python threads run while the engine does.
        """

    def poll_transmit(self) -> Verdict | None:
        """Returns a packet that leaves beside those given in, or None when there are no more.

        These are what became of packets with the verdict "queued": call it until it returns None.
        """

    def poll_timeout(self) -> float | None:
        """Returns when handle_timeout() has something to do, in seconds; None is never, as things stand."""

    def handle_timeout(self, now: float) -> None:
        """Ends connections and fragments whose time is over, in a bounded number of steps.

        Call it again while poll_timeout() is not after now, or call advance().
        """

    def advance(self, now: float) -> None:
        """Moves the time on: ends every connection and fragment whose time is over."""

    def table(self) -> str:
        """Returns the table of `ipvsadm -Ln`."""

    def connections(self) -> list[Connection]:
        """Returns the connections, those whose time is over but that no advance() has ended yet included."""

    @property
    def counters(self) -> dict[str, int]:
        """What became of the packets given in.

        received, transmitted, replied, passed, queued and dropped count packets by verdict; released those that
        left through poll_transmit(); expired and evicted count connections. Each drop reason has its own number
        too, named "drop:REASON".
        """

    def explain(self, protocol: str, client: str, service: str, now: float | None = None, *, mark: int = 0) -> list[str]:
        """Returns where a flow's next packet would go and why, one decision a string; nothing changes.

        protocol: "tcp", "udp" or "sctp".
        client, service: "ADDRESS:PORT", IPv6 addresses in brackets.

        Raises ArgumentError when one of them cannot be.
        """

@final
class Verdict:
    """What the director says of a packet.

    kind tells which of the other fields are there:

        "transmit"  packet and next_hop: send the rewritten packet on
        "reply"     packet and next_hop: send this answer to the packet
        "pass"      packet: it is not the director's, give it to the host
        "queued"    none: what becomes of it comes from Director.poll_transmit()
        "drop"      reason
    """

    @property
    def kind(self) -> Literal["transmit", "reply", "pass", "queued", "drop"]:
        """"transmit", "reply", "pass", "queued" or "drop"."""

    @property
    def packet(self) -> bytes | None:
        """The whole IP packet that leaves, or None."""

    @property
    def next_hop(self) -> IPv4Address | IPv6Address | None:
        """The address that the packet must reach next, or None."""

    @property
    def reason(self) -> str | None:
        """Why the packet was dropped, such as "no-server", or None."""

    def __eq__(self, other: object, /) -> bool: ...
    def __ne__(self, other: object, /) -> bool: ...
    __hash__: ClassVar[None]  # type: ignore[assignment]
