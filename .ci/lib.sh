# Shared by .ci/run and .ci/soak: steps that are timed, and what they need.
# shellcheck shell=bash

top=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
cd "$top" || exit 1
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

# fuzz TIME: each fuzz target of the module for that long.
fuzz() {
	local code=0 pkg target
	for pkg in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n 1 dirname | sort -u); do
		for target in $(grep -rhoE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | awk '{ print $2 }' | sort -u); do
			if go test -run '^$' -fuzz "^$target\$" -fuzztime "$1" "$pkg" >"$work/fuzz" 2>&1; then
				echo "ok $target $pkg $(grep -o 'execs: [0-9]*' "$work/fuzz" | tail -n 1)"
			else
				tail -n 30 "$work/fuzz"
				code=1
			fi
		done
	done
	return $code
}
