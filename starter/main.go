// Command starter prepares the outbox and steers it: it migrates the schema, schedules
// the relay, makes worker versions current, shows what is pending, dead and paused, and
// redrives, discards and replays events.
package main

import (
	"os"

	"github.com/temporal-outbox/relay/starter/cli"
)

func main() { os.Exit(cli.Main("starter")) }
