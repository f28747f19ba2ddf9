// Package vm is a tool for developers: it prints, waits, and runs programs.
package vm

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// Run says when it ran what.
func Run(ctx context.Context) error {
	fmt.Println(time.Now())
	return exec.CommandContext(ctx, "true").Run()
}
