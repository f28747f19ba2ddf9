package mapper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"srvlab.io/rds-csi/safety/kernel"
)

// The target's name and its path selector, each a kernel module of its own (dm-multipath, dm-round-robin).
const (
	targetKind = "multipath"
	selector   = "round-robin"
)

// queueFlag is the feature that has I/O wait instead of fail while there is no path.
const queueFlag = "queue_if_no_path"

// multipathTable gives the parameters of a multipath target (Documentation/admin-guide/device-mapper/dm-mpath): three
// words of features, no hardware handler, and one group with one path, or no group at all. "queue_mode bio" because
// the request-based mode does not take NVMe's multipath head for a path.
func multipathTable(path kernel.DevID) string {
	const features = "3 " + queueFlag + " queue_mode bio 0 "
	if path == (kernel.DevID{}) {
		return features + "0 0"
	}
	return features + "1 1 " + selector + " 0 1 1 " + path.String() + " 1"
}

// table is what DM_TABLE_STATUS tells of a mapping with flagStatusTable.
type table struct {
	queueing bool
	path     kernel.DevID // zero: none
}

// state is what it tells without.
type state struct {
	path   kernel.DevID
	failed bool
}

// parseTable reads the parameters of a multipath target with at most one path, as the kernel prints them.
func parseTable(params string) (table, error) {
	w := words{left: strings.Fields(params)}
	var t table
	for _, feature := range w.list("features") {
		t.queueing = t.queueing || feature == queueFlag
	}
	w.list("hardware handler")
	if w.group() {
		w.next("path selector")
		w.list("selector arguments")
		t.path, _ = w.path(false)
	}
	return t, w.end("table", params)
}

// parseState reads the state of a multipath target with at most one path.
func parseState(params string) (state, error) {
	w := words{left: strings.Fields(params)}
	var s state
	w.list("features")
	w.list("hardware handler")
	if w.group() {
		w.next("group state")
		w.list("selector state")
		s.path, s.failed = w.path(true)
	}
	return s, w.end("state", params)
}

// words takes a line apart from the left and keeps the first error.
type words struct {
	left []string
	err  error
}

func (w *words) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

func (w *words) next(what string) string {
	if w.err != nil || len(w.left) == 0 {
		w.fail("ends before the %s", what)
		return ""
	}
	word := w.left[0]
	w.left = w.left[1:]
	return word
}

func (w *words) number(what string) int {
	word := w.next(what)
	if w.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(word, 10, 31)
	if err != nil {
		w.fail("%s: %w", what, err)
	}
	return int(n)
}

// list reads a count and as many words.
func (w *words) list(what string) []string {
	n := w.number("number of words of the " + what)
	if w.err != nil || n > len(w.left) {
		w.fail("ends before the %s", what)
		return nil
	}
	list := w.left[:n]
	w.left = w.left[n:]
	return list
}

// group reads the number of priority groups and of the current one, and tells whether there is a group. A table of
// ours has one at most.
func (w *words) group() bool {
	groups := w.number("number of groups")
	w.number("current group")
	if groups > 1 {
		w.fail("has %d groups; ours have one at most", groups)
	}
	return w.err == nil && groups == 1
}

// path reads the one path of a group: how many paths and arguments, then the device, in the state also whether it is
// active and how often it failed, then the arguments.
func (w *words) path(state bool) (dev kernel.DevID, failed bool) {
	paths, args := w.number("number of paths"), w.number("number of path arguments")
	if paths != 1 {
		w.fail("has %d paths in its group; ours have one", paths)
		return kernel.DevID{}, false
	}
	word := w.next("path")
	if w.err != nil {
		return kernel.DevID{}, false
	}
	dev, err := kernel.ParseDevID(word)
	if err != nil {
		w.fail("path: %w", err)
	}
	if state {
		failed = w.active()
		w.number("count of failures")
	}
	for range args {
		w.next("path argument")
		if w.err != nil {
			break
		}
	}
	return dev, failed
}

// active reads A or F and tells whether it is F.
func (w *words) active() (failed bool) {
	switch word := w.next("state of the path"); word {
	case "A":
	case "F":
		failed = true
	default:
		w.fail("state of the path is %q, not A or F", word)
	}
	return failed
}

func (w *words) end(what, params string) error {
	err := w.err
	if err == nil && len(w.left) > 0 {
		err = errors.New("goes on behind its end")
	}
	if err != nil {
		return fmt.Errorf("multipath %s %q: %w", what, params, err)
	}
	return nil
}
