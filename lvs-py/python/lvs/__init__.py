"""Linux Virtual Server as a library: one packet in, one verdict out.

A UDP datagram to a virtual service, translated to a real server (LVS/NAT), and the way back:

>>> import lvs
>>> director = lvs.Director(seed=1)
>>> director.restore('''
... -A -u 10.9.0.1:80 -s rr
... -a -u 10.9.0.1:80 -r 10.0.2.11:8080 -m
... ''')
>>> datagram = bytes.fromhex(
...     "45b90021 100f0000 4011b3e1 ac100009 0a090001"  # IPv4, 172.16.0.9 -> 10.9.0.1
...     "75320050 000d905c 68656c6c6f"                  # UDP, 30002 -> 80, "hello"
... )
>>> verdict = director.process(datagram, now=1.0)
>>> verdict
<Verdict transmit 33 bytes to 10.0.2.11>
>>> verdict.packet[16:20], verdict.packet[22:24]        # destination: 10.0.2.11, 8080
(b'\\n\\x00\\x02\\x0b', b'\\x1f\\x90')
>>> director.connections()
[<Connection UDP 172.16.0.9:30002 -> 10.9.0.1:80 at 10.0.2.11:8080 UDP>]

Nothing here opens a socket, reads a clock or needs root: packets, times and the seed are arguments, and the same
arguments give the same bytes.
"""

from lvs._lvs import Connection, Director, Verdict
from lvs.errors import ArgumentError, LvsError, RuleError, RuleProblem

__all__ = [
    "ArgumentError",
    "Connection",
    "Director",
    "LvsError",
    "RuleError",
    "RuleProblem",
    "Verdict",
]
