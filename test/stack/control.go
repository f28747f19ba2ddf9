package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Command sends one line to the emulator's control socket: what happens to a box that its console knows nothing of.
func (s *Stack) Command(ctx context.Context, line string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", s.Control)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		return err
	}
	for answer := bufio.NewScanner(conn); answer.Scan(); {
		if text := answer.Text(); text == "ok" {
			return nil
		} else if failed, is := strings.CutPrefix(text, "error: "); is {
			return fmt.Errorf("the emulator on %q: %w", line, errors.New(failed))
		}
	}
	return errors.Join(fmt.Errorf("the emulator on %q: no answer", line), context.Cause(ctx))
}
