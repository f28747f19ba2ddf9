// Package machine boots a small virtual machine with a real Debian kernel on the host's own file system, and runs
// programs in it. It refuses to write anything to the host but the shares it was given, and leaves no process, file
// or network behind when the machine is closed or its parent dies.
package machine
