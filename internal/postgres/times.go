package postgres

// The table refuses an event whose time is infinite or far away, but rows of before may
// hold one. PostgreSQL cannot subtract an infinite time, Go cannot hold one, and JSON ends
// with the year 9999. A statement about many rows must not fail for one of them, so it
// never computes with a time as it is.
const (
	// safeAgeFrom and safeAgeTo enclose a time that is not null and give its age in seconds:
	// none for a time to come, and for one before 1970 the time since then.
	safeAgeFrom = `extract(epoch FROM now() - least(greatest(`
	safeAgeTo   = `, timestamptz '1970-01-01 00:00Z'), now()))::float8`

	// shownFrom and shownTo enclose a time that is shown to people: the beginning of the
	// year 1 stands for all that is before, the end of the year 9999 for all that is after.
	shownFrom = `least(greatest(`
	shownTo   = `, timestamptz '0001-01-01 00:00Z'), timestamptz '9999-12-31 23:59:59Z')`
)
