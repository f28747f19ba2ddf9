package driver

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
)

// State is an enumeration.
type State int

// The states.
const (
	Up State = iota
	Starting
	Down
)

// Name forgets a state.
func Name(s State) string {
	switch s { // want "exhaustive: missing cases in expression switch"
	case Up:
		return "up"
	case Starting:
		return "starting"
	}
	return ""
}

// Quiet loses errors.
func Quiet(name string) error {
	os.Remove(name) // want "errcheck: os.Remove"
	_, err := strconv.Atoi(name)
	if err == ErrGone { // want "errorlint: comparing with =="
		return errors.New("gone")
	}
	if err != nil {
		return nil // want "nilerr: error is not nil"
	}
	return fmt.Errorf("remove: %v", err) // want "errorlint: non-wrapping format verb"
}

// Shout speaks as nobody can quote it, and copies what it must not.
func Shout(_ sync.Mutex) error { // want "govet: copylocks"
	return errors.New("Failed to write") // want "staticcheck: ST1005"
}

// Assign converts and forgets.
func Assign(n int) int {
	m := int(n) // want "unconvert: unnecessary conversion" "ineffassign: ineffectual assignment" "staticcheck: SA4006"
	m = 2
	return m
}

func Undocumented() {} // want "revive: exported"

// Sentence lacks its full stop // want "godot: should end in a period"
func Sentence() {}

// Misspelled has recieved one letter too many. // want "misspell: a misspelling of" "godot: end in a period"
func Misspelled() {}

func dead() {} // want "unused: dead"

var _ = os.Args //nolint:unused // want "nolintlint: unused for linter"

var _ = os.Remove //nolint:all // want "nolintlint: should mention specific linter" "nolintlint: should mention specific linter"

// Explain does not say why it does not look.
func Explain() {
	os.Remove("x")                    //nolint:errcheck
	_ = errors.Join(exit(1), exit(2)) // want@-1 "nolintlint: should provide explanation"
}

func exit(n int) error { // want "unparam: is always nil"
	if n > 0 {
		os.Exit(n) // want "forbidigo: skips every defer"
	}
	return nil
}

// Maze has more turns than anybody can hold in mind.
func Maze(n int) int { // want "cyclop: calculated cyclomatic complexity"
	if n > 1 && n < 3 || n > 5 && n < 7 || n > 9 && n < 11 || n > 13 && n < 15 {
		return 1
	}
	for n > 100 && n%2 == 0 || n > 1000 && n%3 == 0 || n > 5000 && n%5 == 0 {
		n /= 2
		if n == 77 || n == 78 || n == 79 {
			break
		}
	}
	return n
}
