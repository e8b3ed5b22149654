"""The director through its Python interface: packets in, verdicts out."""

import random
import threading
from collections import Counter
from ipaddress import IPv4Address

import lvs
import pytest
from packets import ACK, ICMP, RST, SYN, destination_of, fragment, ipv4, is_valid, ones_sum, source_of, tcp, udp

VIP = "10.9.0.1"
CLIENT = ("172.16.0.9", 30002)
RULES = f"""
-A -t {VIP}:80 -s rr
-a -t {VIP}:80 -r 10.0.2.11:8080 -m
-a -t {VIP}:80 -r 10.0.2.12:8080 -m
-A -u {VIP}:53 -s rr
-a -u {VIP}:53 -r 10.0.2.11:53 -m
-a -u {VIP}:53 -r 10.0.2.12:53 -m
"""


@pytest.fixture
def director() -> lvs.Director:
    director = lvs.Director(seed=1, connections=1024, addresses=["10.9.0.254"])
    director.restore(RULES)
    return director


def packet_of(verdict: lvs.Verdict) -> bytes:
    assert verdict.packet is not None, verdict
    return verdict.packet


# Balancing


@pytest.mark.parametrize("build", [lambda c: udp(c, (VIP, 53)), lambda c: tcp(c, (VIP, 80), SYN)], ids=["udp", "tcp"])
def test_round_robin_gives_each_server_its_turn(director, build):
    hops = [director.process(build((CLIENT[0], port))).next_hop for port in range(2000, 2010)]
    assert Counter(hops) == {IPv4Address("10.0.2.11"): 5, IPv4Address("10.0.2.12"): 5}
    assert all(a != b for a, b in zip(hops, hops[1:]))


def test_a_flow_stays_with_its_server(director):
    first = director.process(udp(CLIENT, (VIP, 53)))
    again = director.process(udp(CLIENT, (VIP, 53), b"more"), 1.0)
    assert (first.kind, again.kind) == ("transmit", "transmit")
    assert first.next_hop == again.next_hop
    (connection,) = director.connections()
    assert (connection.protocol, connection.client, connection.service) == ("UDP", "172.16.0.9:30002", "10.9.0.1:53")
    assert (connection.server, connection.method, connection.packets) == (f"{first.next_hop}:53", "Masq", 2)
    assert (connection.state, connection.local, connection.mark) == ("UDP", connection.client, 0)
    assert connection.expires == 1.0 + 300


def test_nat_there_and_back(director):
    there = director.process(tcp(CLIENT, (VIP, 80), SYN))
    request = packet_of(there)
    server = destination_of(request)
    assert server == (str(there.next_hop), 8080)
    assert source_of(request) == CLIENT
    assert is_valid(request)

    back = director.process(tcp(server, CLIENT, SYN | ACK))
    reply = packet_of(back)
    assert (source_of(reply), destination_of(reply)) == ((VIP, 80), CLIENT)
    assert back.next_hop == IPv4Address(CLIENT[0])
    assert is_valid(reply)


def test_direct_routing_leaves_the_bytes_alone(director):
    director.restore(f"-C\n-A -u {VIP}:53 -s rr\n-a -u {VIP}:53 -r 10.0.2.11 -g")
    packet = udp(CLIENT, (VIP, 53))
    verdict = director.process(packet)
    assert verdict.packet[:8] == packet[:8] and verdict.packet[12:] == packet[12:]
    assert packet_of(verdict)[16:20] == IPv4Address(VIP).packed


def test_a_tunnel_prepends_a_header_from_an_own_address(director):
    director.restore(f"-C\n-A -u {VIP}:53 -s rr\n-a -u {VIP}:53 -r 10.0.2.11 -i")
    packet = udp(CLIENT, (VIP, 53))
    outer = packet_of(director.process(packet))
    assert len(outer) == len(packet) + 20
    assert outer[9] == 4, "IP in IP"
    assert (outer[12:16], outer[16:20]) == (IPv4Address("10.9.0.254").packed, IPv4Address("10.0.2.11").packed)


def test_a_mark_selects_a_service(director):
    director.restore("-A -f 7 -s rr\n-a -f 7 -r 10.0.2.77 -m")
    assert director.process(udp(CLIENT, (VIP, 9999)), mark=7).next_hop == IPv4Address("10.0.2.77")
    assert any("10.0.2.77" in step for step in director.explain("udp", "1.2.3.4:5", f"{VIP}:99", mark=7))


# Other verdicts


def test_without_a_service_the_director_answers_as_a_host(director):
    verdict = director.process(tcp(CLIENT, (VIP, 81), SYN))
    assert (verdict.kind, verdict.next_hop) == ("reply", IPv4Address(CLIENT[0]))
    answer = packet_of(verdict)
    assert answer[33] & RST
    assert (source_of(answer), destination_of(answer)) == ((VIP, 81), CLIENT)


def test_without_answers_other_packets_pass_unchanged():
    director = lvs.Director(answer=False)
    packet = udp(CLIENT, ("192.0.2.1", 53))
    verdict = director.process(packet)
    assert (verdict.kind, verdict.packet, verdict.next_hop, verdict.reason) == ("pass", packet, None, None)


@pytest.mark.parametrize(
    ("reason", "packet"),
    [
        ("malformed", b""),
        ("malformed", udp(CLIENT, (VIP, 53))[:19]),
        ("bad-header-checksum", b"\x45\1" + udp(CLIENT, (VIP, 53))[2:]),
        ("martian", udp(("127.0.0.1", 9), (VIP, 53))),
        ("not-for-us", udp(CLIENT, ("192.0.2.1", 53))),
        ("unrelated-icmp", ipv4(ICMP, CLIENT[0], VIP, b"\3\3\1\2" + bytes(4) + udp((VIP, 53), CLIENT))),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_a_drop_says_why_and_is_counted(director, reason, packet):
    verdict = director.process(packet)
    assert (verdict.kind, verdict.reason) == ("drop", reason)
    assert (verdict.packet, verdict.next_hop) == (None, None)
    counters = director.counters
    assert (counters["received"], counters["dropped"], counters[f"drop:{reason}"]) == (1, 1, 1)


def test_fragments_wait_for_the_rest_and_leave_by_poll_transmit(director):
    datagram = udp(CLIENT, (VIP, 53), bytes(range(64)), df=False)
    first, last = fragment(datagram, 0, 40), fragment(datagram, 40, 72)
    assert director.poll_transmit() is None
    assert [director.process(piece).kind for piece in (first, last)] == ["queued", "queued"]
    out = [director.poll_transmit(), director.poll_transmit()]
    assert director.poll_transmit() is None
    assert [verdict.kind for verdict in out] == ["transmit", "transmit"]
    assert b"".join(packet_of(verdict)[20:] for verdict in out)[8:] == datagram[28:]
    assert director.counters["released"] == 2


# Batches, buffers, time


def mixed(count: int, seed: int) -> list[bytes]:
    """Good packets of many flows with every seventh one spoilt."""
    dice = random.Random(seed)
    packets = []
    for number in range(count):
        client = (f"172.16.0.{dice.randrange(1, 255)}", dice.randrange(1024, 1100))
        packet = dice.choice([udp(client, (VIP, 53)), tcp(client, (VIP, 80), SYN), tcp(client, (VIP, 80), ACK)])
        if number % 7 == 0:
            spoilt = bytearray(packet)
            spoilt[dice.randrange(len(packet))] ^= 1 << dice.randrange(8)
            packet = bytes(spoilt)
        packets.append(packet)
    return packets


def test_process_many_gives_what_process_gives(director):
    twin = lvs.Director(seed=1, connections=1024, addresses=["10.9.0.254"])
    twin.restore(RULES)
    packets = mixed(500, seed=2)
    many = director.process_many(iter(packets), 3.0)
    assert many == [twin.process(packet, 3.0) for packet in packets]
    assert {verdict.kind for verdict in many} >= {"transmit", "drop"}
    assert director.counters == twin.counters
    assert director.process_many([]) == []


def test_every_kind_of_buffer_is_taken_and_none_is_changed(director):
    packet = udp(CLIENT, (VIP, 53))
    expected = director.process(packet)
    backwards = memoryview(packet[::-1])[::-1]
    for buffer in (bytearray(packet), memoryview(packet), backwards):
        assert director.process(buffer) == expected
        assert bytes(buffer) == packet
    for wrong in ("text", 5, None, [packet]):
        with pytest.raises(TypeError):
            director.process(wrong)
    with pytest.raises(TypeError):
        director.process_many([packet, "text"])
    assert director.counters["received"] == 4


def test_time_ends_connections(director):
    director.process(udp(CLIENT, (VIP, 53)), 5.0)
    assert director.poll_timeout() is not None
    director.advance(304.0)
    assert len(director.connections()) == 1
    director.advance(400.0)
    assert director.connections() == []
    assert director.counters["expired"] == 1


def test_a_time_that_is_left_out_is_the_latest(director):
    director.process(udp(CLIENT, (VIP, 53)), 50.0)
    director.process(udp(CLIENT, (VIP, 53)))
    assert director.connections()[0].expires == 350.0
    director.handle_timeout(349.0)
    steps = director.explain("udp", "172.16.0.9:30002", f"{VIP}:53")
    assert steps[1].startswith("connection: UDP 172.16.0.9:30002"), "not ended at 349"


@pytest.mark.parametrize("now", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_time_that_cannot_be_is_refused(director, now):
    with pytest.raises(lvs.ArgumentError, match="expected seconds"):
        director.process(udp(CLIENT, (VIP, 53)), now)
    assert director.counters["received"] == 0


def test_threads_take_turns(director):
    packets = mixed(300, seed=5)
    threads = [threading.Thread(target=director.process_many, args=(packets, 1.0)) for _ in range(4)]
    threads += [threading.Thread(target=lambda: [director.process(packet, 1.0) for packet in packets])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert director.counters["received"] == 5 * len(packets)


def test_an_iterable_may_use_the_director_itself(director):
    def packets():
        for port in (1, 2, 3):
            director.process(udp((CLIENT[0], port), (VIP, 53)))
            yield udp((CLIENT[0], port), (VIP, 53))

    assert [verdict.kind for verdict in director.process_many(packets())] == ["transmit"] * 3


def test_hostile_bytes_raise_nothing(director):
    dice = random.Random(3)
    seeds = [*mixed(50, seed=4), udp(CLIENT, (VIP, 53), bytes(2000), df=False)]
    received = 0
    for number in range(10_000):
        if number % 2:
            packet = bytearray(dice.randbytes(dice.randrange(120)))
            if packet:
                packet[0] = dice.choice([0x45, 0x46, 0x60, packet[0]])
        else:
            packet = bytearray(dice.choice(seeds))
            for _ in range(dice.randrange(1, 4)):
                packet[dice.randrange(len(packet))] = dice.randrange(256)
            # A right header checksum leads further in.
            if dice.random() < 0.8 and len(packet) >= 20:
                packet[10:12] = bytes(2)
                packet[10:12] = (0xFFFF - ones_sum(bytes(packet[:20]))).to_bytes(2, "big")
        verdict = director.process(packet, number * 0.01)
        received += 1
        assert verdict.kind in ("transmit", "reply", "pass", "queued", "drop")
        while director.poll_transmit() is not None:
            pass
    counters = director.counters
    assert counters["received"] == received == 10_000
    verdicts = ("transmitted", "replied", "passed", "queued")
    assert sum(counters[name] for name in verdicts) <= received
    assert counters["dropped"] == sum(count for name, count in counters.items() if name.startswith("drop:"))
    assert all(counters[name] for name in ("transmitted", "replied", "dropped"))


# Rules


def test_save_is_what_restore_reads(director):
    text = director.save()
    assert text.splitlines()[1] == "-a -t 10.9.0.1:80 -r 10.0.2.11:8080 -m -w 1"
    twin = lvs.Director()
    twin.restore(text)
    assert twin.save() == text
    assert twin.table() == director.table()


def test_the_table_is_ipvsadms(director):
    director.process(tcp(CLIENT, (VIP, 80), SYN))
    lines = director.table().splitlines()
    assert lines[0] == "IP Virtual Server version 1.2.1 (size=4096)"
    assert lines[3] == "TCP  10.9.0.1:80 rr"
    assert [line.split()[-2] for line in lines[4:6]] in (["1", "0"], ["0", "1"])


def test_unreadable_rules_name_line_and_column_and_change_nothing(director):
    before = director.save()
    with pytest.raises(lvs.RuleError) as caught:
        director.restore("-A -t 10.0.0.1:80\n-A -t 10.0.0.2:80 -s wwrr\n\n-a -t 10.0.0.2:http -q")
    first, *others = caught.value.errors
    assert first == lvs.RuleProblem(2, 22, "`wwrr` is no scheduler", "wrr")
    assert others and {problem.line for problem in others} == {4}
    assert str(caught.value).splitlines()[0] == "line 2, column 22: `wwrr` is no scheduler; expected wrr"
    assert isinstance(caught.value, (ValueError, lvs.LvsError))
    assert director.save() == before


def test_rules_that_cannot_be_carried_out_name_the_line_and_change_nothing(director):
    before = director.save()
    with pytest.raises(lvs.RuleError, match="line 4: no virtual service") as caught:
        director.restore("# comment\n\n-A -t 10.0.0.1:80\n-a -t 10.0.0.9:80 -r 10.0.0.2 -m")
    (problem,) = caught.value.errors
    assert (problem.line, problem.column, problem.expected) == (4, None, None)
    assert director.save() == before


def test_exceptions_have_one_base():
    for error in (lvs.RuleError, lvs.ArgumentError):
        assert issubclass(error, lvs.LvsError) and issubclass(error, ValueError)


# Arguments and looking


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"sysctl": {"sloppy": 1}}, "unknown sysctl 'sloppy'"),
        ({"sysctl": {"sloppy_tcp": 2}}, "expected 0 or 1"),
        ({"addresses": ["10.0.0.256"]}, "address '10.0.0.256'"),
        ({"mtu": 67}, "expected at least 68"),
        ({"connections": 2**31}, "expected at most 16777216"),
    ],
)
def test_arguments_that_cannot_be(arguments, text):
    with pytest.raises(lvs.ArgumentError, match=text):
        lvs.Director(**arguments)


def test_arguments_take_effect():
    director = lvs.Director(addresses=(IPv4Address("10.9.0.254"),), mtu=600, sysctl={"sloppy_tcp": True})
    director.restore(RULES)
    assert director.process(tcp(CLIENT, (VIP, 80), ACK)).kind == "transmit"
    too_big = director.process(udp(CLIENT, (VIP, 53), bytes(700)))
    answer = packet_of(too_big)
    assert too_big.kind == "reply"
    assert (answer[9], answer[20:22], answer[26:28]) == (ICMP, b"\3\4", (600).to_bytes(2, "big"))


def test_explain_tells_the_decisions_and_changes_nothing(director):
    steps = director.explain("tcp", "172.16.0.9:30002", f"{VIP}:80")
    assert steps[0] == "flow: TCP 172.16.0.9:30002 -> 10.9.0.1:80"
    assert steps == director.explain("TCP", "172.16.0.9:30002", f"{VIP}:80")
    hop = director.process(tcp(CLIENT, (VIP, 80), SYN)).next_hop
    assert steps[-2:] == [
        f"server: {hop}:8080 by Masq",
        f"rewrite: next hop {hop} (mtu 1500), destination {hop}:8080",
    ]
    for wrong in (("tpc", "1.2.3.4:5", "1.2.3.4:5"), ("tcp", "1.2.3.4", "1.2.3.4:5"), ("tcp", "1.2.3.4:5", "x:5")):
        with pytest.raises(lvs.ArgumentError, match="expected"):
            director.explain(*wrong)


def test_repr_says_what_matters(director):
    assert repr(director) == "<Director 2 services, 0 connections>"
    assert repr(director.process(b"")) == "<Verdict drop malformed>"
    assert repr(director.process(udp(CLIENT, (VIP, 53)))).startswith("<Verdict transmit 33 bytes to 10.0.2.1")


def test_values_cannot_be_changed(director):
    verdict = director.process(udp(CLIENT, (VIP, 53)))
    with pytest.raises(AttributeError):
        verdict.kind = "drop"
    assert verdict != director.process(b"") and verdict != "transmit"
