# test/bench/lib.sh: what the scripts of this folder share.  To be sourced first.
#
# A script measures one or more rows of the table, ours and its peers in turn, on
# one server:
#
#	. "$(dirname "$0")/lib.sh"
#	bench_begin "$@"                     # options, private server, PGHOST …
#	n=$(bench_rows 5000000 200000)       # full form, short form
#	ours() { make_table; bench_ms bench_sql '…'; }   # prints one number
#	peer() { make_table; bench_ms bench_sql '…'; }
#	bench_rounds ours peer               # A B A B …, or A B C A B C with three
#	bench_sides ours peer                # those two, for the rows that follow
#	bench_row "online int -> bigint" ms "native ALTER TABLE" "<= 1.0"
#
# bench_row prints a line with both medians, their spread and their ratio, and adds
# it to NAME.MAJOR.rows in $REFIT_BENCH_DIR, of which report makes
# docs/benchmarks.md.  A script that runs again replaces its own rows only.
#
# A script run by hand goes through test/run, which builds everything and makes a
# private copy of PostgreSQL:  test/bench/NAME [--short].
#
#	REFIT_BENCH_PAIRS    rounds to run (5; 2 in the short form)
#	REFIT_BENCH_ROWS     rows of the big tables, instead of what the script says
#	REFIT_BENCH_SECONDS  length of one run of pgbench, instead of what it says
#	REFIT_BENCH_CONF     more settings for the server
#	REFIT_BENCH_DIR      folder for the rows of the table and the plots' data

set -euo pipefail
shopt -s inherit_errexit # a side that fails within $() ends the script
export LC_ALL=C.UTF-8

# In the order of the table.  growth, which has one of its own, is run by name.
bench_scripts=(rewrite tree repack index backfill migration stall cutover capture
	throughput phases validate governor revert mirror)

bench_short=0 bench_dir= bench_results= bench_preload=pg_refit
bench_ours=() bench_peer=()
declare -A bench_figures

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
	bench_results=${REFIT_BENCH_DIR:+$REFIT_BENCH_DIR/$name.$(bench_major).rows}
	[ -z "$bench_results" ] || : >"$bench_results"
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
			shared_preload_libraries = '$bench_preload'
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

# The server's version: major, and whole.
bench_major() { pg_config --version | sed 's/[^0-9]*\([0-9]*\).*/\1/'; }
bench_version() { pg_config --version | sed 's/[^0-9]*\([0-9a-z.]*\).*/\1/'; }

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

# Waits until a migration is in a state; another one of those at the end is an error.
bench_reach()
{
	local state

	until state=$(bench_sql "SELECT state FROM refit.migrations WHERE id = $1")
		[ "$state" = "$2" ]; do
		case $state in failed | cancelled | completed | reverted)
			echo "migration $1: $state" >&2
			return 1 ;;
		esac
		sleep 0.1
	done
}

# Before each side: the same state of caches and of the WAL.
bench_settle() { bench_sql CHECKPOINT; sync; }

# bench_rounds SIDE...: calls each in turn, again and again, so that each side has
# the others beside it.  Each prints one number.
bench_rounds()
{
	local rounds=${REFIT_BENCH_PAIRS:-$(bench_pick 5 2)} i side figure line

	for side; do bench_figures[$side]=; done
	for ((i = 0; i < rounds; i++)); do
		line=
		for side; do
			figure=$($side) # may be a function with its arguments
			bench_figures[$side]+=" $figure" line+=" $side $figure"
		done
		echo "# round $((i + 1)):$line" >&2
	done
}

# bench_sides OURS [PEER]: whose figures of bench_rounds the next rows are of.
bench_sides()
{
	read -r -a bench_ours <<<"${bench_figures[$1]}"
	read -r -a bench_peer <<<"${2:+${bench_figures[$2]}}"
}

# bench_pairs OURS PEER: both in turn.
bench_pairs() { bench_rounds "$1" "$2"; bench_sides "$1" "$2"; }

# Median, least and greatest of some numbers.
bench_spread()
{
	printf '%s\n' "$@" | sort -g | awk '
		function f(x) {return sprintf(x >= 1000 ? "%.0f" : "%.4g", x)}
		{v[NR] = $1}
		END {
			m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
			print f(m), f(v[1]), f(v[NR])
		}'
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
bench_miss() { bench_print "$1|-|$2|not here|-|$3|0"; }

# A row as a line on the terminal, and for the table.
bench_print()
{
	local f

	IFS='|' read -r -a f <<<"$1"
	printf '%-44s ours %-30s %s %-30s ratio %-6s target %s\n' \
		"${f[0]}" "${f[1]}" "${f[2]:--}:" "${f[3]}" "${f[4]}" "${f[5]}"
	[ -z "$bench_results" ] ||
		echo "$1|$(bench_version)|$(date -u +%F)" >>"$bench_results"
}

# bench_table NAME: makes a table (id, n, note) anew from the rows in $rows, with a
# primary key, by way of a copy that is kept, for that is quicker.
bench_table()
{
	[ "$(bench_sql "SELECT to_regclass('bench_rows') IS NULL")" = f ] ||
		bench_sql "CREATE UNLOGGED TABLE bench_rows AS SELECT i AS id,
			hashint4(i) AS n, md5(i::text) AS note FROM generate_series(1, $rows) i"
	bench_sql "DROP TABLE IF EXISTS $1" \
		"CREATE TABLE $1 (id int NOT NULL, n int, note text)" \
		"INSERT INTO $1 TABLE bench_rows" "ALTER TABLE $1 ADD PRIMARY KEY (id)"
}

# bench_watch FILE SQL: has a session repeat SQL every 20 ms from now on, which
# writes what it gives to FILE; its process is $bench_watcher.  Numbers only.
bench_watch()
{
	printf '%s\n\\watch 0.02\n' "$2" >"$1.sql"
	psql -XqAt -f "$1.sql" >"$1" 2>/dev/null &
	bench_watcher=$!
}

# Ends it; prints the largest number in FILE.
bench_watched()
{
	kill $bench_watcher
	wait $bench_watcher 2>/dev/null || true
	awk '/^[0-9.]+$/ && $1 + 0 > most {most = $1 + 0} END {printf "%.0f\n", most}' "$1"
}

# bench_stall SECONDS TABLE SET COMMAND...: the longest wait in ms of any of 8
# clients that update TABLE and one that reads it, while a reader holds it for
# SECONDS and COMMAND works on it.  An error of a client is one here.
bench_stall()
{
	local seconds=$1 table=$2 set=$3 libpq probes=() i stall hold

	shift 3
	libpq=$(dirname "$0")/../libpq
	make -s -C "$libpq" stall
	for i in 1 2 3 4 5 6 7 8; do
		probes+=(--update "UPDATE $table SET $set WHERE id = $i * 1000")
	done
	"$libpq/stall" --conninfo "host=$PGHOST dbname=$PGDATABASE" --seconds 3600 \
		--select "SELECT FROM $table WHERE id = 1" "${probes[@]}" \
		>"$bench_dir/stall" &
	stall=$!
	sleep 1
	bench_sql BEGIN "SELECT FROM $table LIMIT 1" "SELECT pg_sleep($seconds)" \
		>/dev/null &
	hold=$!
	sleep 0.5
	"$@" >/dev/null
	wait $hold
	sleep 1
	kill $stall
	wait $stall || { cat "$bench_dir/stall" >&2; return 1; }
	sed -n 's/.* ms=\([0-9.]*\).*/\1/p' "$bench_dir/stall" | sort -g | tail -1
}
