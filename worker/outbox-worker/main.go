// Command outbox-worker is the worker under a name that does not collide on a PATH, for
// go install and releases.
package main

import (
	"os"

	"github.com/temporal-outbox/relay/worker/service"
)

func main() { os.Exit(service.Main("outbox-worker")) }
