# test/bench/lib.sh: what the scripts of this folder share.  To be sourced first.
#
# A script measures one row of the table, ours and a peer in turn, on one server:
#
#	. "$(dirname "$0")/lib.sh"
#	bench_begin "$@"                     # options, private server, PGHOST …
#	n=$(bench_pick 5000000 200000)       # full form, short form
#	ours() { make_table; bench_ms psql -c '…'; }   # prints one number
#	peer() { make_table; bench_ms psql -c '…'; }
#	bench_pairs ours peer                # A B A B …
#	bench_row "online int -> bigint" ms "native ALTER TABLE" "<= 1.0"
#
# bench_row prints a line with both medians, their spread and their ratio, and adds
# it to $REFIT_BENCH_RESULTS for docs/benchmarks.md.
#
# A script run by hand goes through test/run, which builds everything and makes a
# private copy of PostgreSQL:  test/bench/NAME [--short].
#
#	REFIT_BENCH_PAIRS    pairs to run (5; 2 in the short form)
#	REFIT_BENCH_ROWS     rows of the big tables, instead of what the script says
#	REFIT_BENCH_SECONDS  length of one run of pgbench, instead of what it says
#	REFIT_BENCH_CONF     more settings for the server
#	REFIT_BENCH_RESULTS  file for the rows of the table
#	REFIT_BENCH_PLOTS    folder for plots and their data

set -euo pipefail
export LC_ALL=C.UTF-8

bench_short=0 bench_dir= bench_ours=() bench_peer=()

# Options; goes through test/run unless that is where we are; starts the server.
# Lines for postgresql.conf may be in the array bench_conf.
bench_begin()
{
	local top name

	top=$(cd "$(dirname "$0")/../.." && pwd) name=${0##*/}
	[ "${1:-}" != --short ] || bench_short=1
	[ "${REFIT_BENCH_SHORT:-0}" = 0 ] || bench_short=1
	if [ -z "${PG_REGRESS:-}" ]; then
		exec "$top/test/run" --exec "test/bench/$name" "$@"
	fi
	bench_dir=$(mktemp -d "${TMPDIR:-/tmp}/bench.XXXXXX")
	trap bench_end EXIT
	trap 'exit 130' INT TERM HUP
	unset PGPORT PGUSER PGDATA PGOPTIONS PGSERVICE
	bench_start
}

# Makes a server on a private socket, of ordinary settings: durable, WAL for a
# standby, no checkpoint but those that are asked for.
bench_start()
{
	export PGHOST=$bench_dir PGDATABASE=postgres PGUSER=bench
	initdb -D "$bench_dir/data" -U bench -A trust -E UTF8 --no-locale -N \
		>"$bench_dir/initdb" 2>&1 || { cat "$bench_dir/initdb"; exit 2; }
	{
		cat <<-END
			listen_addresses = ''
			unix_socket_directories = '$bench_dir'
			shared_preload_libraries = 'pg_refit'
			shared_buffers = 1GB
			max_wal_size = 16GB
			checkpoint_timeout = 1h
			maintenance_work_mem = 256MB
			max_worker_processes = 16
			max_prepared_transactions = 10
			autovacuum = off
			client_min_messages = warning
			log_lock_waits = on
			deadlock_timeout = 500ms
			refit.min_free_disk = 0
		END
		printf '%s\n' "${bench_conf[@]:-}" "${REFIT_BENCH_CONF:-}"
	} >>"$bench_dir/data/postgresql.conf"
	pg_ctl -D "$bench_dir/data" -l "$bench_dir/log" -w -t 60 start >/dev/null ||
		{ tail -20 "$bench_dir/log"; exit 2; }
	bench_sql 'CREATE EXTENSION pg_refit'
}

# Ends the server and removes what was made.
bench_end()
{
	local status=$?

	trap - EXIT
	trap '' INT TERM HUP
	# shellcheck disable=SC2046
	kill $(jobs -p) 2>/dev/null || true
	[ -z "$bench_dir" ] ||
		pg_ctl -D "$bench_dir/data" -m immediate -w stop >/dev/null 2>&1 || true
	[ $status = 0 ] || tail -20 "$bench_dir/log" >&2
	rm -rf "$bench_dir"
	exit $status
}

# The first argument in the full form, the second one in the short form.
bench_pick() { if [ $bench_short = 1 ]; then echo "$2"; else echo "$1"; fi; }

# Rows of the big tables: as asked for, else by the form.
bench_rows() { echo "${REFIT_BENCH_ROWS:-$(bench_pick "$@")}"; }

# SQL, each argument a command; what it gives goes to stdout.
bench_sql()
{
	local args=() one

	for one; do args+=(-c "$one"); done
	psql -XqAt -v ON_ERROR_STOP=1 "${args[@]}"
}

# Runs a command; prints the milliseconds that it took.
bench_ms()
{
	local begun=${EPOCHREALTIME/./}

	"$@" >/dev/null
	echo $(((${EPOCHREALTIME/./} - begun) / 1000))
}

# Runs SQL that submits a migration and waits for its end, an ERROR if it fails.
bench_migrate()
{
	bench_sql "$1" | { read -r id; bench_sql "SELECT refit.wait($id)"; }
}

# Before each side: the same state of caches and of the WAL.
bench_settle() { bench_sql CHECKPOINT; sync; }

# bench_pairs OURS PEER: calls both in turn.  Each prints one number.
bench_pairs()
{
	local pairs=${REFIT_BENCH_PAIRS:-$(bench_pick 5 2)} i

	bench_ours=() bench_peer=()
	for ((i = 0; i < pairs; i++)); do
		bench_ours+=("$("$1")")
		bench_peer+=("$("$2")")
		echo "# pair $((i + 1)): ${bench_ours[i]} ${bench_peer[i]}" >&2
	done
}

# Median, least and greatest of some numbers.
bench_spread()
{
	printf '%s\n' "$@" | sort -g | awk '{v[NR] = $1} END {
		m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
		printf "%.6g %.6g %.6g", m, v[1], v[NR]}'
}

# bench_row WHAT UNIT PEER TARGET: a row of the table, from bench_ours and
# bench_peer.  With no peer's figures the ratio is left out.
bench_row()
{
	local ours peer=() ratio=- row

	read -r -a ours <<<"$(bench_spread "${bench_ours[@]}")"
	if [ ${#bench_peer[@]} -gt 0 ]; then
		read -r -a peer <<<"$(bench_spread "${bench_peer[@]}")"
		ratio=$(awk -v a="${ours[0]}" -v b="${peer[0]}" \
			'BEGIN {if (b > 0) printf "%.2f", a / b; else print "-"}')
	fi
	row="$1|${ours[0]} $2 (${ours[1]} to ${ours[2]})|$3"
	row+="|${peer[0]:--}${peer[0]:+ $2 (${peer[1]} to ${peer[2]})}|$ratio|$4"
	bench_print "$row|${#bench_ours[@]}"
	[ -z "${REFIT_BENCH_RESULTS:-}" ] ||
		echo "$row|${#bench_ours[@]}" >>"$REFIT_BENCH_RESULTS"
}

# pg_repack of one table, which says much.
bench_repack()
{
	pg_repack -h "$PGHOST" -k -t "$1" postgres 2>"$bench_dir/repack" ||
		{ cat "$bench_dir/repack" >&2; return 1; }
}

# Is this program there?
bench_has() { command -v "$1" >/dev/null; }

# bench_miss WHAT PEER TARGET: a row without figures, for a peer that is not there.
bench_miss()
{
	bench_print "$1|-|$2|not here|-|$3|0"
	[ -z "${REFIT_BENCH_RESULTS:-}" ] ||
		echo "$1|-|$2|not here|-|$3|0" >>"$REFIT_BENCH_RESULTS"
}

# A row as a line on the terminal.
bench_print()
{
	local f

	IFS='|' read -r -a f <<<"$1"
	printf '%-44s ours %-30s %s %-30s ratio %-6s target %s\n' \
		"${f[0]}" "${f[1]}" "${f[2]:--}:" "${f[3]}" "${f[4]}" "${f[5]}"
}
