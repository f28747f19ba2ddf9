# Counts the logs of `go test -v`: one line a log and a total. A package that fails without a failed test (it did not
# build, panicked or ran out of time) counts as one. Nothing run is a failure. The VM suite writes the kernel before each
# line, "6.1 | ".

function begin_log() {
	name = FILENAME
	sub(/.*\//, "", name)
	sub(/\.log$/, "", name)
	order[++logs] = name
	in_package = 0
}

FNR == 1 { begin_log() }
{ sub(/^[0-9.]+ \| /, "") }
/^ *--- PASS: / { passed[name]++ }
/^ *--- FAIL: / { failed[name]++; in_package++ }
/^ *--- SKIP: / { skipped[name]++ }
/^ok[ \t]/ { in_package = 0 }
/^FAIL[ \t]/ {
	if (!in_package)
		failed[name]++
	in_package = 0
}

END {
	for (i = 1; i <= logs; i++) {
		n = order[i]
		printf "%-12s %5d passed, %d failed, %d skipped\n", n, passed[n], failed[n], skipped[n]
		p += passed[n]; f += failed[n]; s += skipped[n]
	}
	printf "%-12s %5d passed, %d failed, %d skipped\n", "total", p, f, s
	exit f > 0 || p == 0
}
