//go:build unix && !linux

package testkit

import "syscall"

// childAttr puts a server in a process group of its own.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
