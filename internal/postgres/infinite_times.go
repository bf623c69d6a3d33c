package postgres

// The table refuses an event with an infinite or far time, but older rows may have such a time.
// PostgreSQL cannot subtract an infinite time, Go cannot represent one, and JSON ends with the year
// 9999. A statement about many rows must not fail because of one row, so it never computes with an
// unchecked time.
const (
	// safeAgeFrom and safeAgeTo enclose a time that is not null and give its age in seconds: 0 for
	// a future time, and the time since 1970 for an earlier one.
	safeAgeFrom = `extract(epoch FROM now() - least(greatest(`
	safeAgeTo   = `, timestamptz '1970-01-01 00:00Z'), now()))::float8`

	// shownFrom and shownTo enclose a time that is shown to people: the beginning of the year 1
	// stands for all earlier times, the end of the year 9999 for all later ones.
	shownFrom = `least(greatest(`
	shownTo   = `, timestamptz '0001-01-01 00:00Z'), timestamptz '9999-12-31 23:59:59Z')`
)
