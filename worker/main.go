// Command worker is the daemon that publishes: it runs the relay's workflows and
// activities. It is configured by the environment and the file that OUTBOX_CONFIG
// names, and stops cleanly on SIGTERM or SIGINT.
package main

import (
	"os"

	"github.com/temporal-outbox/relay/worker/service"
)

func main() { os.Exit(service.Main("worker")) }
