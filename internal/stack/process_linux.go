package stack

import (
	"os/exec"
	"syscall"
)

// DieWithParent has the kernel send sig to cmd's process when this one is gone,
// even if it was killed outright. Start cmd with StartChild.
func DieWithParent(cmd *exec.Cmd, sig syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = sig
}
