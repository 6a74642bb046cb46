# Shared by .ci/run and .ci/soak: steps that are timed, and what they need.
# shellcheck shell=bash

top=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
cd "$top" || exit 1
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/bullpen-ci.XXXXXX")
export BULLPEN_CI_WORK=$work
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
took=()
bad=()

# step NAME COMMAND...: runs it, prints how long it took, and goes on after a failure.
step() {
	local name=$1 start code
	shift
	printf '\n=== %s\n' "$name"
	start=$(date +%s)
	"$@"
	code=$?
	took+=("$(printf '%5ds  %s%s' $(($(date +%s) - start)) "$name" "$([ $code -eq 0 ] || echo '  FAILED')")")
	[ $code -eq 0 ] || bad+=("$name")
	return 0
}

# finish: the table of times, and the exit code of the whole.
finish() {
	printf '\n=== what took how long\n'
	printf '%s\n' "${took[@]}"
	if [ ${#bad[@]} -gt 0 ]; then
		printf 'failed: %s\n' "${bad[@]}"
		exit 1
	fi
	echo "all steps passed"
}

# need PROGRAM PACKAGE...: installs the Debian packages when the program is
# missing, as root; otherwise says what is missing.
need() {
	local program=$1
	shift
	command -v "$program" >/dev/null 2>&1 && return 0
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		if [ ! -e "$work/apt-updated" ]; then
			apt-get update -q >/dev/null && touch "$work/apt-updated"
		fi
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" >"$work/apt.log" 2>&1 ||
			{ tail -n 5 "$work/apt.log"; return 1; }
		command -v "$program" >/dev/null 2>&1 && return 0
	fi
	echo "$program is missing: apt-get install --no-install-recommends $*"
	return 1
}

# real: what the tests with real hypervisors and databases need.
real() {
	need libvirtd libvirt-daemon libvirt-daemon-driver-qemu && need qemu-system-x86_64 qemu-system-x86 && need qemu-img qemu-utils &&
		need etcd etcd-server && need pg_lsclusters postgresql &&
		need dnsmasq dnsmasq-base && need iptables iptables && need sshd openssh-server && kernel || return 1
	id libvirt-qemu >/dev/null 2>&1 || useradd --system --user-group --no-create-home libvirt-qemu
}

# kernel: Debian's cloud kernel and a static busybox, unpacked and not installed, for
# test guests; BULLPEN_KERNEL names it.
kernel() {
	local root=${XDG_CACHE_HOME:-$HOME/.cache}/bullpen-ci/guest found
	if [ ! -e "$root/bin/busybox" ]; then
		mkdir -p "$work/deb" && chmod 777 "$work" "$work/deb" || return 1
		[ -e "$work/apt-updated" ] || { apt-get update -q >/dev/null && touch "$work/apt-updated"; } || return 1
		(cd "$work/deb" && apt-get download -q "$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')" busybox-static >/dev/null) || return 1
		rm -rf "$root.new" && mkdir -p "$root.new" || return 1
		for found in "$work"/deb/*.deb; do dpkg-deb -x "$found" "$root.new" || return 1; done
		rm -rf "$root" && mv "$root.new" "$root" || return 1
	fi
	for found in "$root"/boot/vmlinuz-*; do BULLPEN_KERNEL=$found; done
	export BULLPEN_KERNEL
	echo "kernel: ${BULLPEN_KERNEL##*/}"
}

# fuzz TIME: each fuzz target of all modules for that long.
fuzz() {
	local code=0 pkg target
	for pkg in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do
		for target in $(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | awk '{ print $2 }' | sort -u); do
			if fuzz_one "$pkg" "$target" "$1" || { out_of_time && fuzz_one "$pkg" "$target" "$1"; } || { out_of_time && fuzz_one "$pkg" "$target" "$1"; }; then
				echo "ok $target $pkg $(grep -o 'execs: [0-9]*' "$work/fuzz" | tail -n 1)"
			else
				tail -n 30 "$work/fuzz"
				code=1
			fi
		done
	done
	return $code
}

fuzz_one() { # fuzz_one FOLDER TARGET TIME
	(cd "$1" && go test -run '^$' -fuzz "^$2\$" -fuzztime "$3" .) >"$work/fuzz" 2>&1
}

# out_of_time tells the race of Go's fuzzer with its own -fuzztime (go.dev/issue/75804,
# mended in Go 1.27) from an input that fails: it names no input, and the target is run again.
out_of_time() {
	grep -qx '    context deadline exceeded' "$work/fuzz" && ! grep -q 'Failing input written' "$work/fuzz"
}
