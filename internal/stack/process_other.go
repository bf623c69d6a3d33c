//go:build !linux

package stack

import (
	"os/exec"
	"syscall"
)

// DieWithParent does nothing: only Linux can tie a child to its parent's death.
// Elsewhere a stack whose parent was killed outright has to be ended by hand.
func DieWithParent(*exec.Cmd, syscall.Signal) {}
