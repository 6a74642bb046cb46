// Package daemon starts databases for tests and benchmarks: each in a folder of its
// own, on the loopback only, ended with the process that started it.
//
//	s, err := daemon.PostgreSQL(ctx)
//	defer s.Close()
//	db, err := sql.Open("pgx", s.Address)
package daemon
