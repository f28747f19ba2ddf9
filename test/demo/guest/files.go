package guest

import (
	"bufio"
	"errors"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// parents gives dir and what is above it, up to and without top.
func parents(dir, top string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for ; len(dir) > len(top); dir = filepath.Dir(dir) {
			if !yield(dir) {
				return
			}
		}
	}
}

// exitCode gives the exit code behind the error of a program that ran; another error stays one.
func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// mountsBelow gives the lines of the host's mount table for what is mounted below a directory.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var lines []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		if field := strings.Fields(in.Text()); len(field) > 4 && strings.HasPrefix(field[4], dir+"/") {
			lines = append(lines, in.Text())
		}
	}
	return lines, in.Err()
}
