// Command starter sets up and operates the outbox: it migrates the schema, schedules the
// relay, makes worker versions current, shows the state of topics and events, and redrives,
// discards and replays events.
package main

import (
	"os"

	"github.com/temporal-outbox/relay/starter/cli"
)

func main() { os.Exit(cli.Main("starter")) }
