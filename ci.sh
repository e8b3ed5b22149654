#!/usr/bin/env bash
# Builds and tests lvs-rs. What CI runs is `./ci.sh` and nothing else.
#
#   ./ci.sh              all of: setup fmt clippy doc test nostd py e2e bench-build
#   ./ci.sh quick        `cargo test` alone: needs neither root, network nor Python
#   ./ci.sh STEP...      the named steps, in the order given
#   ./ci.sh help         this text
#
# Steps:
#   setup        installs what the other steps need and this machine lacks (apt as root; pip in target/venv)
#   fmt          the formatting is rustfmt's
#   clippy       no warning in any target with all features
#   doc          the documentation builds without a warning
#   test         unit tests, doctests and scenarios with all features, without the Python module
#   nostd        lvs-sched builds without the standard library's features
#   py           builds the Python module into target/venv and runs its tests
#   e2e          a director between real clients and servers in network namespaces (root)
#   bench-build  the benches compile; nothing is measured
# Not part of the whole run:
#   quick        see above
#   deny         licences, bans and sources of all dependencies (installs cargo-deny: minutes)
#   advisories   known vulnerabilities of all dependencies (fetches the RustSec database)
#
# A step that lacks root or a tool fails; nothing is ever skipped. The first failing step ends the run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly ALL_STEPS=(setup fmt clippy doc test nostd py e2e bench-build)
readonly MORE_STEPS=(quick deny advisories)

# The virtual environment of the `py` step.
VENV="$PWD/target/venv"
readonly VENV

# command=Debian package, for what the end-to-end tests call.
readonly APT_TOOLS=(
    nginx=nginx-light wrk=wrk curl=curl ip=iproute2 ethtool=ethtool tcpdump=tcpdump jq=jq
)
readonly PIP_PACKAGES=('maturin>=1.9,<2' 'pytest>=8,<10' 'mypy>=1.11')
# pyo3's abi3-py311.
readonly PYTHON_MINOR=11

die() {
    echo "ci.sh: $*" >&2
    exit 1
}

# Fails unless every named command is there.
need() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || die "$tool is missing: run './ci.sh setup' as root, or install it"
    done
}

step_setup() {
    local packages=() pair
    for pair in "${APT_TOOLS[@]}"; do
        command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
    done
    command -v python3 >/dev/null || packages+=(python3)
    # Debian splits venv off Python; ensurepip is the part that is missing then.
    python3 -c 'import venv, ensurepip' 2>/dev/null || packages+=(python3-venv python3-pip)

    if ((${#packages[@]} > 0)); then
        echo "missing: ${packages[*]}"
        command -v apt-get >/dev/null || die "no apt-get here: install ${packages[*]} by hand"
        ((EUID == 0)) || die "installing needs root: apt-get install ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q
        apt-get install -q -y --no-install-recommends "${packages[@]}"
    fi

    python3 -c "import sys; sys.exit(sys.version_info < (3, $PYTHON_MINOR))" ||
        die "$(python3 --version) is too old: the Python module needs 3.$PYTHON_MINOR or later"
    # A venv whose interpreter has gone is made anew.
    "$VENV/bin/python" -c '' 2>/dev/null || python3 -m venv --clear "$VENV"
    "$VENV/bin/python" -m pip install --quiet "${PIP_PACKAGES[@]}"

    need cargo nginx wrk curl ip ethtool tcpdump jq python3
    cargo fmt --version
    cargo clippy --version
}

step_fmt() {
    cargo fmt --all --check
}

step_clippy() {
    need python3
    cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
}

step_doc() {
    need python3
    RUSTDOCFLAGS=-Dwarnings cargo doc --locked --workspace --no-deps --all-features
}

# The test profile is optimised a little (Cargo.toml), with overflow checks and debug assertions on.
step_test() {
    cargo test --locked --workspace --exclude lvs-py --all-features
}

step_nostd() {
    cargo check --locked -p lvs-sched --no-default-features
}

step_py() {
    [[ -x $VENV/bin/maturin && -x $VENV/bin/pytest ]] || die "no maturin and pytest in $VENV: run './ci.sh setup'"
    # maturin installs into the environment that VIRTUAL_ENV names.
    (cd lvs-py && VIRTUAL_ENV="$VENV" "$VENV/bin/maturin" develop --locked)
    "$VENV/bin/python" -m pytest lvs-py/tests
}

step_e2e() {
    ((EUID == 0)) || die "e2e needs root: it makes network namespaces and TUN devices"
    need nginx wrk curl ip ethtool tcpdump jq python3
    bash tests/e2e/run.sh
}

step_bench-build() {
    cargo bench --locked -p lvs-benches --no-run
}

step_quick() {
    cargo test
}

step_deny() {
    cargo deny --version 2>/dev/null || cargo install cargo-deny --locked
    cargo deny --all-features check bans licenses sources
}

step_advisories() {
    cargo deny --version 2>/dev/null || cargo install cargo-deny --locked
    cargo deny --all-features check advisories
}

# Prints the comment at the top of this file.
usage() {
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# The step under way, for the message when it fails.
current=''

report_failure() {
    local status=$?
    if [[ -n $current && $status -ne 0 ]]; then
        echo "ci.sh: step '$current' failed (exit status $status)" >&2
    fi
}

main() {
    local steps=("$@") step known started begun=$SECONDS
    if [[ ${1-} == help || ${1-} == --help || ${1-} == -h ]]; then
        usage
        return
    fi
    if (($# == 0)); then
        steps=("${ALL_STEPS[@]}")
    fi
    known=" ${ALL_STEPS[*]} ${MORE_STEPS[*]} "
    for step in "${steps[@]}"; do
        [[ $step != *' '* && $known == *" $step "* ]] || die "unknown step '$step': expected one of$known(or help)"
    done

    trap report_failure EXIT
    for step in "${steps[@]}"; do
        current=$step
        started=$SECONDS
        echo "=== $step"
        # Not in a condition: bash would ignore `set -e` inside the step.
        "step_$step"
        echo "=== $step: $((SECONDS - started)) s"
    done
    current=''
    echo "ci.sh: ${#steps[@]} steps passed in $((SECONDS - begun)) s"
}

main "$@"
