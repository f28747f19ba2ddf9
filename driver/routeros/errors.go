package routeros

import (
	"errors"
	"strconv"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// What a call on an array may come to. Every error of an Array is exactly one of them, told by errors.Is.
var (
	// ErrNotFound: the array positively answered that it has no such disk. A look-up that failed never says so.
	ErrNotFound = errors.New("no such disk")
	// ErrForeign: the slot is taken by a disk without our mark. Nothing was touched.
	ErrForeign = errors.New("the disk is not ours")
	// ErrExists: the disk, or the file that it would use, is there already.
	ErrExists = errors.New("exists already")
	// ErrNoSpace: the pool has less free space than asked for.
	ErrNoSpace = errors.New("not enough free space on the pool")
	// ErrConflict: the disk's mark changed between the caller's reading and the command; read again and decide anew.
	ErrConflict = errors.New("the disk was changed by somebody else meanwhile")
	// ErrPermission: the array's user lacks a policy.
	ErrPermission = errors.New("the array's user may not do this")
	// ErrUnsupported: this array cannot do it: RouterOS too old, rose-storage missing, or the device does not take a
	// setting that the driver needs.
	ErrUnsupported = errors.New("the array cannot do this")
	// ErrUnreachable: the command did not reach the array, or its answer was lost; see MaybeApplied.
	ErrUnreachable = errors.New("array unreachable")
	// ErrUnknown: the array answered, but the answer proves nothing.
	ErrUnknown = errors.New("the array's answer proves nothing")
)

// Error is what went wrong with one call on an array. Kind is one of the sentinels above.
type Error struct {
	Array safety.ArrayName
	Op    string // what was tried, on what: "create pvc-…"
	Kind  error
	Line  string // the command line as it was sent; no command of this package carries a secret
	Text  string // what the device said, "" for nothing
	Err   error  // the cause or the explanation, nil for none
	// MaybeApplied says that the command was sent and its answer lost: it may have taken effect. The next call reads
	// back; nothing here repeats a command that changes something on a guess.
	MaybeApplied bool
}

// Error gives "array rds1: create pvc-…: <kind>: <cause>; the array said "…"".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("array " + string(e.Array) + ": " + e.Op + ": " + e.Kind.Error())
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.MaybeApplied {
		b.WriteString("; the command may have taken effect")
	}
	if e.Text != "" {
		b.WriteString("; the array said " + strconv.Quote(e.Text))
	}
	return b.String()
}

// Unwrap gives the kind and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}

// MaybeApplied tells whether err is that of a command whose answer was lost, so that it may have taken effect.
func MaybeApplied(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.MaybeApplied
}
