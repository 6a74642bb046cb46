// Package sqlstore keeps leases in a database: SQLite for the processes of one
// machine, PostgreSQL for many machines. It imports no driver: the caller opens
// the *sql.DB with the driver of their choice and closes it after the Store.
//
//	db, err := sql.Open("sqlite", path)
//	store, err := sqlstore.Open(ctx, db, sqlstore.Config{Dialect: sqlstore.SQLite{}})
//	leases, err := lease.New(lease.Config{Store: store})
//
// # What is kept
//
// One row a record, with a checksum over all of it, in the table bullpen_lease;
// the store's id and schema version in bullpen_meta. The tables are made by the
// first Open and migrated by later versions; a schema that is newer than the
// program is refused with ErrNewer. A row that does not fit its checksum is never
// read as free: the operation ends with ErrDamaged.
//
// # SQLite
//
// WAL with synchronous=FULL is set and read back, so an acknowledged swap survives
// the crash of process and machine. All writes go through one connection and one
// goroutine, which puts what is queued into one transaction: 64 waiting writers cost
// one fsync, not 64. Between processes a flock on the file <database>-gate is held
// during each transaction. SQLite's own busy handler lets processes starve; behind
// the gate, and the turnstile <database>-turn before it, they take turns of a
// millisecond and one transaction. Who cannot get through within SQLite.GateWait is
// told by ErrBusy which pid holds it.
//
// The gate file also says how many commits the database has seen. A database that
// knows fewer was truncated, lost its -wal file, or is an older copy: it would
// grant what is held, and is refused with ErrDamaged. Open verifies the file's
// structure, each row, and the count and digest of all rows.
//
// The database must be on a local file system, and be opened by one kind of
// SQLite library per process: a second one, or any code that opens and closes the
// file itself, drops the process's POSIX locks.
//
// # PostgreSQL
//
// Version 11 or later, encoding UTF8, fsync on. Each operation is one statement, so
// no transaction is ever left open by a client that stops; statement, lock and idle
// timeouts are set for each session all the same. Tokens come from a sequence and
// are drawn after the row is locked, so they rise for each key in the order of the
// grants. Serialization failures and deadlocks (SQLSTATE 40001, 40P01), which the
// server has rolled back, are tried again, at most five times.
//
// All is done by functions of the schema, but for claims and releases of keys that
// were claimed before. Claim uses FOR UPDATE SKIP LOCKED: keys that were claimed once
// keep a row for good, with token 0 while nobody holds them. A Store remembers which
// ones (up to 65,536), and claims and gives these back by one plain statement each. It
// leaves out keys that it has claimed itself and renews, so a key that somebody else
// released may be passed by for a third of its TTL while others are free; a list of
// keys none of which it has gets a prepared statement of its own. When all of them
// are held, or with Postgres.Channel, it is the functions again. Stores that know only
// the functions, those of schema version 1, may be open beside others.
//
// The sessions have settings of their own: planning by the index
// (enable_seqscan and enable_bitmapscan off) and once (plan_cache_mode), no jit,
// standard_conforming_strings on.
//
// Sessions must be the Store's own, and end with it: behind a pooler use session
// mode. After a fail-over to a replica that had not received all commits tokens can
// repeat: use synchronous replication.
package sqlstore
