// Package program knows by which name people call the starter: its binary is "starter" in the
// images and "outbox" from go install and releases. Texts that ask people to run a command name
// it as they have called it.
package program

import "strings"

var starter = "starter"

// StarterIs says the name of the starter that this process is. It is for the beginning of main.
// A process that is no starter cannot know the name, and its texts have the documented one,
// "starter".
func StarterIs(name string) { starter = name }

// Starter returns a command line of the starter, such as Starter("dead list", topic), or the
// starter's name if there are no arguments.
func Starter(arguments ...string) string {
	return strings.Join(append([]string{starter}, arguments...), " ")
}
