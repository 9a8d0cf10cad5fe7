package testkit

import "syscall"

// childAttr puts a server in a process group of its own, and has the kernel kill it when the
// test binary dies without having cleaned up.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
