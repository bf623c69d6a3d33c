package relay

// Class says what is to be done about a refusal. The publisher gives it by the
// refusal's code.
type Class string

const (
	// ClassRetry is a fault that passes: the same request may succeed later. Codes
	// that nobody knows belong here, because a retry loses nothing.
	ClassRetry Class = "retry"
	// ClassPoison is an event that this destination can never accept.
	ClassPoison Class = "poison"
	// ClassDestination is a destination that accepts nothing until somebody
	// changes something: a permission, a key, a name.
	ClassDestination Class = "destination"
	// ClassOurs is a request that this program built wrong. It says nothing about
	// the events in it, so none of them is ever a dead letter for it.
	ClassOurs Class = "ours"
)
