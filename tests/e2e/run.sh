#!/usr/bin/env bash
# The director on a live kernel: real clients and servers through `lvs-director run --tun`.
#
#     tests/e2e/run.sh [all|nat|fullnat|tun]        as root; about a minute
#     LVS_DIRECTOR=path/to/lvs-director tests/e2e/run.sh nat
#
# Without LVS_DIRECTOR the release build of this repository is made first. Whatever tool or right is missing ends
# the run with an error; nothing is skipped. Exit code 0: every check held.
#
#   client1 10.77.1.2 ──┐                        ┌── 10.77.11.2 server1 (nginx :8080)
#           fd77:1::2   │  ┌──────────────────┐  │   fd77:11::2
#                       ├──┤ director   lvs0 ─┼──┤
#   client2 10.77.2.2 ──┘  └──────────────────┘  └── 10.77.12.2 server2 (nginx :8080)
#           fd77:2::2                                fd77:12::2
#
#   VIP 10.77.100.1, fd77:100::1 port 80 · local addresses (FULLNAT) 10.77.200.0/28, fd77:200::/124
#   the director's own address 10.77.250.1, fd77:250::1
#
# Five network namespaces of its own, joined by veth pairs; nothing outside them is touched. With NAT the servers'
# default gateway is the director. With FULLNAT they know a route to the local addresses only, so that an answer
# which does not come back through the director has nowhere to go.
#
# Checks, for NAT and FULLNAT, over IPv4 and IPv6:
#   - curl: the server's name, both servers in turn
#   - 100 MB down and 100 MB up with the right SHA-256
#   - two wrk clients at once, one with keep-alive and one with `Connection: close`: no failed request
#   - the same files once more with checksum and segmentation offload off at both ends, so that receivers verify
#     each checksum that the director wrote, and no checksum errors in any namespace
#   - a closed port of the VIP refuses at once
#   - SIGTERM: exit code 0, the final tables, and routes, rules and switches as they were before
# For NAT also: a director that was killed is followed by one that starts. For LVS/TUN: the tunnel
# packets as they arrive at the server (kernels without `ipip` cannot unwrap them). Wrong rules: exit code 2 and
# nothing changed.
set -Eeuo pipefail

MODE=${1:-all}
case $MODE in all | nat | fullnat | tun) ;; *)
	echo "usage: $0 [all|nat|fullnat|tun]" >&2
	exit 2
	;;
esac

VIP4=10.77.100.1 VIP6=fd77:100::1
SERVER4=(10.77.11.2 10.77.12.2) SERVER6=(fd77:11::2 fd77:12::2)
POOL4=10.77.200.0/28 POOL6=fd77:200::/124
OWN4=10.77.250.1 OWN6=fd77:250::1
BIG_BYTES=$((100 * 1000 * 1000))
WRK_SECONDS=8

HERE=$(cd "$(dirname "$0")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
NAME=lvse2e-$$
DIRECTOR=$NAME-dir
CLIENTS=("$NAME-c1" "$NAME-c2")
SERVERS=("$NAME-s1" "$NAME-s2")
WORK=$(mktemp -d -t lvs-e2e.XXXXXX)
PIDS=()
STEP=start
FIGURES=()

fail() {
	echo "FAILED ($STEP): $*" >&2
	if [[ -s $WORK/director.log ]]; then
		echo "--- what the director said:" >&2
		tail -40 "$WORK/director.log" >&2
	fi
	exit 1
}

say() {
	STEP=$*
	echo "== $*"
}

# Ends what this script started, by process id, and removes its namespaces and files.
clean_up() {
	local code=$? pid namespace
	trap - EXIT INT TERM
	for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
	for pid in "${PIDS[@]}"; do
		for _ in $(seq 40); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.05
		done
		kill -9 "$pid" 2>/dev/null || true
	done
	for namespace in "$DIRECTOR" "${CLIENTS[@]}" "${SERVERS[@]}"; do
		ip netns del "$namespace" 2>/dev/null || true
	done
	rm -rf "$WORK"
	exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'echo "FAILED ($STEP): line $LINENO: $BASH_COMMAND" >&2' ERR

in_ns() { # in_ns NAMESPACE COMMAND…, waiting for it. `in_ns … &` would give the pid of a subshell, not the command's
	ip netns exec "$@"
}

# --- tools and program ------------------------------------------------------------------------------------------

for tool in ip nginx wrk curl tcpdump nstat jq ethtool sha256sum; do
	command -v "$tool" >/dev/null ||
		fail "no $tool; install iproute2 nginx-light wrk curl tcpdump jq ethtool coreutils"
done
[[ $(id -u) == 0 ]] || fail "network namespaces need root"
[[ -c /dev/net/tun ]] || fail "no /dev/net/tun; load the module tun"

if [[ -z ${LVS_DIRECTOR:-} ]]; then
	say "build lvs-director"
	(cd "$ROOT" && cargo build --release --quiet -p lvs-director)
	LVS_DIRECTOR=${CARGO_TARGET_DIR:-$ROOT/target}/release/lvs-director
fi
LVS_DIRECTOR=$(realpath "$LVS_DIRECTOR")
[[ -x $LVS_DIRECTOR ]] || fail "$LVS_DIRECTOR is no program"

# --- topology ---------------------------------------------------------------------------------------------------

link_to_director() { # link_to_director NAMESPACE DEVICE NETWORK-NUMBER
	local namespace=$1 device=$2 number=$3
	ip netns add "$namespace"
	ip -n "$namespace" link set lo up
	ip -n "$DIRECTOR" link add "$device" type veth peer name eth0 netns "$namespace"
	ip -n "$DIRECTOR" addr add "10.77.$number.1/24" dev "$device"
	ip -n "$DIRECTOR" addr add "fd77:$number::1/64" dev "$device" nodad
	ip -n "$DIRECTOR" link set "$device" up
	ip -n "$namespace" addr add "10.77.$number.2/24" dev eth0
	ip -n "$namespace" addr add "fd77:$number::2/64" dev eth0 nodad
	ip -n "$namespace" link set eth0 up
}

default_route() { # default_route NAMESPACE NETWORK-NUMBER
	ip -n "$1" route replace default via "10.77.$2.1"
	ip -n "$1" -6 route replace default via "fd77:$2::1"
}

say "topology"
ip netns add "$DIRECTOR"
ip -n "$DIRECTOR" link set lo up
# As on a host that filters: the director must open what it needs, and close it again.
in_ns "$DIRECTOR" sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 \
	net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1
link_to_director "${CLIENTS[0]}" c1 1
link_to_director "${CLIENTS[1]}" c2 2
link_to_director "${SERVERS[0]}" s1 11
link_to_director "${SERVERS[1]}" s2 12
default_route "${CLIENTS[0]}" 1
default_route "${CLIENTS[1]}" 2
for namespace in "${CLIENTS[@]}"; do
	in_ns "$namespace" sysctl -qw net.ipv4.ip_local_port_range="10000 65000"
done

servers_routed_for() { # servers_routed_for MODE: what the servers know about the way back
	local index number
	for index in 0 1; do
		number=$((11 + index))
		if [[ $1 == fullnat ]]; then
			ip -n "${SERVERS[$index]}" route del default 2>/dev/null || true
			ip -n "${SERVERS[$index]}" -6 route del default 2>/dev/null || true
			ip -n "${SERVERS[$index]}" route replace $POOL4 via "10.77.$number.1"
			ip -n "${SERVERS[$index]}" -6 route replace $POOL6 via "fd77:$number::1"
		else
			default_route "${SERVERS[$index]}" "$number"
		fi
	done
}

offload() { # offload on|off: checksums and segmentation at clients and servers
	local namespace
	for namespace in "${CLIENTS[@]}" "${SERVERS[@]}"; do
		in_ns "$namespace" ethtool -K eth0 tx "$1" tso "$1" gso "$1" >/dev/null
	done
}

# --- servers ----------------------------------------------------------------------------------------------------

head -c "$BIG_BYTES" /dev/urandom >"$WORK/big"
SUM=$(sha256sum <"$WORK/big")
chmod 755 "$WORK"

start_nginx() { # start_nginx INDEX
	local index=$1 namespace=${SERVERS[$1]} dir="$WORK/nginx$1" name="server$(($1 + 1))"
	mkdir -p "$dir/www/up"
	ln "$WORK/big" "$dir/www/big"
	cat >"$dir/nginx.conf" <<-CONF
		user root;
		daemon off;
		worker_processes 1;
		pid $dir/pid;
		error_log $dir/error.log;
		events { worker_connections 4096; }
		http {
			access_log off;
			client_body_temp_path $dir/body;
			proxy_temp_path $dir/proxy;
			fastcgi_temp_path $dir/fastcgi;
			uwsgi_temp_path $dir/uwsgi;
			scgi_temp_path $dir/scgi;
			client_max_body_size 0;
			keepalive_requests 1000000;
			server {
				listen 8080 backlog=4096;
				listen [::]:8080 backlog=4096;
				root $dir/www;
				location = /id { return 200 "$name\n"; }
				location = /status { stub_status; }
				location /up/ { dav_methods PUT; }
			}
		}
	CONF
	ip netns exec "$namespace" nginx -c "$dir/nginx.conf" -e "$dir/error.log" &
	PIDS+=($!)
	for _ in $(seq 100); do
		[[ $(in_ns "$namespace" curl -s http://127.0.0.1:8080/id || true) == "$name" ]] && return
		sleep 0.05
	done
	fail "nginx of $name does not answer: $(tail -3 "$dir/error.log")"
}

served() { # served INDEX: requests that nginx has answered so far, this one not counted
	local all
	all=$(in_ns "${SERVERS[$1]}" curl -s http://127.0.0.1:8080/status | awk 'NR == 3 { print $3 }')
	echo $((all - 1))
}

say "nginx"
start_nginx 0
start_nginx 1

# --- director ---------------------------------------------------------------------------------------------------

rules_for() { # rules_for MODE
	local flag index
	case $1 in nat) flag=-m ;; fullnat) flag=--fullnat ;; tun) flag=-i ;; dr) flag=-g ;; esac
	echo "-A -t $VIP4:80 -s rr"
	for index in 0 1; do echo "-a -t $VIP4:80 -r ${SERVER4[$index]}:8080 $flag"; done
	if [[ $1 == nat || $1 == fullnat ]]; then
		echo "-A -t [$VIP6]:80 -s rr"
		for index in 0 1; do echo "-a -t [$VIP6]:80 -r [${SERVER6[$index]}]:8080 $flag"; done
	fi
}

# Everything that a director may change on its host.
host_state() {
	local family
	for family in -4 -6; do
		ip -n "$DIRECTOR" $family rule
		# Link-local routes come when the kernel has checked its addresses, not by anyone's command.
		ip -n "$DIRECTOR" $family route show table all | grep -Ev 'fe80::|ff00::'
	done
	in_ns "$DIRECTOR" sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter net.ipv6.conf.all.forwarding
	ip -n "$DIRECTOR" -br link
}

start_director() { # start_director MODE
	rules_for "$1" >"$WORK/rules"
	: >"$WORK/director.log"
	ip netns exec "$DIRECTOR" "$LVS_DIRECTOR" run --rules "$WORK/rules" --tun lvs0 --connections 262144 \
		--address $OWN4 --address $OWN6 --fullnat-pool $POOL4 --fullnat-pool $POOL6 \
		>"$WORK/director.log" 2>&1 &
	DIRECTOR_PID=$!
	PIDS+=("$DIRECTOR_PID")
	for _ in $(seq 200); do
		grep -q '^lvs-director: ready on lvs0' "$WORK/director.log" && return
		kill -0 "$DIRECTOR_PID" 2>/dev/null || fail "the director ended before it was ready"
		sleep 0.05
	done
	fail "the director is not ready after 10 seconds"
}

stop_director() {
	local code=0
	kill -TERM "$DIRECTOR_PID"
	wait "$DIRECTOR_PID" || code=$?
	[[ $code == 0 ]] || fail "exit code $code after SIGTERM"
	grep -q '^IP Virtual Server version' "$WORK/director.log" || fail "no table at the end"
	grep -q 'Conns   InPkts  OutPkts' "$WORK/director.log" || fail "no statistics at the end"
	grep -q '^packets  *received' "$WORK/director.log" || fail "no counters at the end"
	host_state >"$WORK/after"
	diff -u "$WORK/before" "$WORK/after" >&2 || fail "the host is not as it was before"
	if grep -q '^device .*refused [^0]' "$WORK/director.log"; then
		fail "the kernel refused packets of the director"
	fi
}

# --- checks -----------------------------------------------------------------------------------------------------

figure() { # figure MODE WHAT REQUESTS FAILED SERVER1 SERVER2 SECONDS RATE
	FIGURES+=("$(printf '%-8s %-36s %9s %7s %9s %9s %8s %14s' "$@")")
}

checksum_errors() { # sum over all namespaces of packets whose checksum was wrong
	local namespace
	for namespace in "${CLIENTS[@]}" "${SERVERS[@]}" "$DIRECTOR"; do
		in_ns "$namespace" nstat -asz TcpInCsumErrors IcmpInCsumErrors Icmp6InCsumErrors IpExtInCsumErrors
	done | awk '/CsumErrors/ { sum += $2 } END { print sum + 0 }'
}

check_ids() { # check_ids MODE HOST LABEL: 20 requests of one connection each, 10 to each server
	local ids one two
	ids=$(for _ in $(seq 20); do in_ns "${CLIENTS[0]}" curl -sSgf -m 5 "http://$2/id"; done)
	one=$(grep -c '^server1$' <<<"$ids" || true)
	two=$(grep -c '^server2$' <<<"$ids" || true)
	[[ $one == 10 && $two == 10 ]] || fail "$one answers of server1 and $two of server2, expected 10 of each"
	figure "$1" "curl $3" 20 0 "$one" "$two" - -
}

check_down() { # check_down MODE HOST LABEL
	local sum speed
	speed=$(in_ns "${CLIENTS[1]}" curl -sSgf -m 60 -o "$WORK/down" -w '%{speed_download} %{time_total}' "http://$2/big")
	sum=$(sha256sum <"$WORK/down")
	[[ $sum == "$SUM" ]] || fail "SHA-256 of the download is $sum"
	figure "$1" "100 MB down $3, sha256 ok" 1 0 - - "${speed#* }" "$((${speed%% *} / 1000000)) MB/s"
}

check_up() { # check_up MODE HOST LABEL
	local dir sum speed found=0
	speed=$(in_ns "${CLIENTS[0]}" curl -sSgf -m 60 -T "$WORK/big" -o /dev/null -w '%{speed_upload} %{time_total}' "http://$2/up/big")
	for dir in "$WORK"/nginx?/www/up; do
		[[ -f $dir/big ]] || continue
		sum=$(sha256sum <"$dir/big")
		[[ $sum == "$SUM" ]] || fail "SHA-256 of the upload is $sum"
		found=$((found + 1))
		rm "$dir/big"
	done
	[[ $found == 1 ]] || fail "the upload arrived $found times"
	figure "$1" "100 MB up $3, sha256 ok" 1 0 - - "${speed#* }" "$((${speed%% *} / 1000000)) MB/s"
}

check_closed_port() { # check_closed_port HOST
	local code=0 seconds
	seconds=$(in_ns "${CLIENTS[0]}" curl -sg -m 5 -o /dev/null -w '%{time_total}' "http://$1:81/") || code=$?
	[[ $code == 7 ]] || fail "curl to a closed port of $1 ended with $code, expected 7 (connection refused)"
	awk -v s="$seconds" 'BEGIN { exit !(s < 0.5) }' || fail "the refusal took $seconds s"
}

start_wrk() { # start_wrk CLIENT-INDEX OUTPUT [wrk options…]; sets WRK_PID
	local client=$1 output=$2
	shift 2
	ip netns exec "${CLIENTS[$client]}" wrk -t1 -c32 -d${WRK_SECONDS}s --timeout 5s -s "$HERE/wrk.lua" "$@" \
		"http://$VIP4/id" >"$output" 2>&1 &
	WRK_PID=$!
	PIDS+=("$WRK_PID")
}

check_wrk() { # check_wrk MODE
	local before=("$(served 0)" "$(served 1)") after total=0 one two index pids=() json requests failed seconds
	start_wrk 0 "$WORK/wrk0"
	pids+=("$WRK_PID")
	start_wrk 1 "$WORK/wrk1" -H 'Connection: close'
	pids+=("$WRK_PID")
	for index in 0 1; do
		wait "${pids[$index]}" || fail "wrk failed: $(tail -3 "$WORK/wrk$index")"
	done
	after=("$(served 0)" "$(served 1)")
	one=$((after[0] - before[0] - 1))
	two=$((after[1] - before[1] - 1))
	for index in 0 1; do
		json=$(grep '^{' "$WORK/wrk$index")
		requests=$(jq .requests <<<"$json")
		failed=$(jq .failed <<<"$json")
		seconds=$(jq .seconds <<<"$json")
		((requests > 100)) || fail "wrk made $requests requests only"
		[[ $failed == 0 ]] || fail "failed requests of wrk: $json"
		! grep -Eq 'Socket errors|Non-2xx' "$WORK/wrk$index" || fail "$(cat "$WORK/wrk$index")"
		figure "$1" "wrk $( ((index)) && echo 'Connection: close' || echo keep-alive)" \
			"$requests" "$failed" - - "$seconds" "$(awk "BEGIN { printf \"%.0f req/s\", $requests / $seconds }")"
		total=$((total + requests))
	done
	# Connections are dealt out evenly, requests are not: a keep-alive connection asks as fast as its server answers.
	((one > total / 20 && two > total / 20)) || fail "server1 answered $one of $total requests, server2 $two"
	figure "$1" "wrk, as nginx counts" $((one + two)) - "$one" "$two" - -
}

translated() { # translated nat|fullnat
	local mode=$1
	say "$mode: start"
	servers_routed_for "$mode"
	host_state >"$WORK/before"
	if [[ $mode == nat ]]; then
		start_director nat
		{ kill -9 "$DIRECTOR_PID" && wait "$DIRECTOR_PID"; } 2>/dev/null || true
		[[ $(ip -n "$DIRECTOR" rule) == *"from ${SERVER4[0]} lookup 77"* ]] || fail "the killed director left no rules"
		in_ns "$DIRECTOR" sysctl -qw net.ipv4.ip_forward=0 net.ipv4.conf.all.rp_filter=1 net.ipv6.conf.all.forwarding=0
	fi
	start_director "$mode"
	say "$mode: curl"
	check_ids "$mode" "$VIP4" IPv4
	check_ids "$mode" "[$VIP6]" IPv6
	check_closed_port "$VIP4"
	check_closed_port "[$VIP6]"
	say "$mode: files"
	check_down "$mode" "$VIP4" IPv4
	check_down "$mode" "[$VIP6]" IPv6
	check_up "$mode" "$VIP4" IPv4
	check_up "$mode" "[$VIP6]" IPv6
	say "$mode: wrk"
	check_wrk "$mode"
	say "$mode: without offload"
	offload off
	check_down "$mode" "$VIP4" "IPv4 -offload"
	check_up "$mode" "[$VIP6]" "IPv6 -offload"
	offload on
	[[ $(checksum_errors) == 0 ]] || fail "$(checksum_errors) packets with wrong checksums"
	say "$mode: end"
	stop_director
	sed -n '/^packets/,$p' "$WORK/director.log"
}

tunnelled() {
	local capture
	say "tun: start"
	servers_routed_for tun
	host_state >"$WORK/before"
	start_director tun
	say "tun: packets at the server"
	ip netns exec "${SERVERS[0]}" tcpdump -l -n -i eth0 -c 1 "ip proto 4" >"$WORK/tcpdump" 2>"$WORK/tcpdump.err" &
	PIDS+=($!)
	capture=$!
	for _ in $(seq 100); do
		grep -q 'listening on' "$WORK/tcpdump.err" && break
		sleep 0.05
	done
	# Two requests: one of them goes to server1. It does not unwrap, so nobody answers.
	for _ in 1 2; do
		in_ns "${CLIENTS[0]}" curl -s -m 1 --connect-timeout 0.5 "http://$VIP4/id" >/dev/null || true
	done
	for _ in $(seq 60); do
		kill -0 "$capture" 2>/dev/null || break
		sleep 0.05
	done
	grep -Eq "IP $OWN4 > ${SERVER4[0]}: IP 10\.77\.1\.2\.[0-9]+ > $VIP4\.80: Flags \[S\]" "$WORK/tcpdump" ||
		fail "no tunnel packet with the right addresses at server1: $(cat "$WORK/tcpdump")"
	figure tun "IPIP packet at server1" 1 0 1 - - -
	say "tun: end"
	stop_director
}

refused() {
	local code=0
	say "wrong rules change nothing"
	rules_for dr >"$WORK/rules"
	host_state >"$WORK/before"
	in_ns "$DIRECTOR" "$LVS_DIRECTOR" run --rules "$WORK/rules" --tun lvs0 >"$WORK/director.log" 2>&1 || code=$?
	[[ $code == 2 ]] || fail "exit code $code, expected 2"
	grep -q "rules:2:1: .* expected -m (NAT)" "$WORK/director.log" || fail "the error does not say what would be right"
	host_state >"$WORK/after"
	diff -u "$WORK/before" "$WORK/after" >&2 || fail "the host was changed"
}

refused
[[ $MODE == all || $MODE == nat ]] && translated nat
[[ $MODE == all || $MODE == fullnat ]] && translated fullnat
[[ $MODE == all || $MODE == tun ]] && tunnelled

echo
printf '%-8s %-36s %9s %7s %9s %9s %8s %14s\n' mode what requests failed server1 server2 seconds rate
printf '%s\n' "${FIGURES[@]}"
echo
echo "all checks held in $SECONDS s; packets with wrong checksums: $(checksum_errors)"
