// Command outbox is the starter under a name that does not collide on a PATH, for
// go install and releases.
package main

import (
	"os"

	"github.com/temporal-outbox/relay/starter/cli"
)

func main() { os.Exit(cli.Main("outbox")) }
