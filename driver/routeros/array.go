package routeros

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"srvlab.io/rds-csi/safety"
)

// Options is what all arrays of one installation have in common.
type Options struct {
	Prefix  safety.Prefix // the ownership mark; required
	Cluster string        // the cluster ID, written into each disk's mark
}

// Array is one array. It is safe for concurrent use. It keeps connections and what the pool looked like, which each
// command that relies on it checks again: the array is the truth.
type Array struct {
	config   ArrayConfig
	prefix   safety.Prefix
	cluster  string
	portal   netip.AddrPort
	warnings []string
	run      runner
	close    func() error

	pool   atomic.Pointer[Pool]
	settle settle
}

// settle is how long a change may take to show: SC-CSI, the one driver known to run on an RDS2216, sleeps 3 s after
// each add and set (routeros.md, gap 6).
type settle struct {
	limit time.Duration // in all
	pause time.Duration // between two looks
}

var defaultSettle = settle{limit: 10 * time.Second, pause: 500 * time.Millisecond}

// Open gives the array of a checked configuration. It reads the key and the known_hosts file and does not connect, so
// an array that is down keeps no program from starting.
func Open(c ArrayConfig, o Options) (*Array, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("array %s: %w", c.Name, err)
	}
	ssh, warnings, err := newSSHRunner(c.SSH)
	if err != nil {
		return nil, fmt.Errorf("array %s: %w", c.Name, err)
	}
	a, err := newArray(c, o, newGuarded(ssh))
	if err != nil {
		return nil, err
	}
	a.warnings, a.close = warnings, ssh.Close
	return a, nil
}

// newArray gives an array behind any runner.
func newArray(c ArrayConfig, o Options, run runner) (*Array, error) {
	if o.Prefix == (safety.Prefix{}) {
		return nil, fmt.Errorf("array %s: no managed NQN prefix: without one nothing on the array is ours", c.Name)
	}
	addr, err := netip.ParseAddr(c.NVMe.Address)
	if err != nil {
		return nil, fmt.Errorf("array %s: nvme.address: %w", c.Name, err)
	}
	return &Array{
		config:  c,
		prefix:  o.Prefix,
		cluster: o.Cluster,
		portal:  netip.AddrPortFrom(addr, c.NVMe.Port),
		run:     run,
		close:   func() error { return nil },
		settle:  defaultSettle,
	}, nil
}

// Name gives the array's name in the configuration.
func (a *Array) Name() safety.ArrayName { return a.config.Name }

// Portal gives the address and port at which nodes reach the array's exports.
func (a *Array) Portal() (netip.Addr, uint16) { return a.portal.Addr(), a.portal.Port() }

// Warnings gives what is unwise in the configuration but works, for the program to log.
func (a *Array) Warnings() []string { return a.warnings }

// Close ends the connections. A command under way still ends by itself.
func (a *Array) Close() error { return a.close() }

// call is one command under way, for the errors it may come to.
type call struct {
	array *Array
	op    string
	line  string
	reply reply
}

// send runs a script. The error is a transport failure or a line that is too long; anything that the array answered
// is in the reply, whatever it means.
func (a *Array) send(ctx context.Context, op string, s *script) (call, error) {
	c := call{array: a, op: op}
	line, err := s.line()
	if err != nil {
		return c, c.fail(ErrUnknown, err)
	}
	c.line = line
	out, err := a.run.Run(ctx, line)
	c.reply = readReply(out, s.nonce)
	if err != nil && !c.reply.done { // with the sentinel nothing was lost but the goodbye
		e := c.fail(ErrUnreachable, err)
		var lost *lostError
		e.MaybeApplied = errors.As(err, &lost) && lost.sent
		return c, e
	}
	return c, nil
}

// fail gives the error of the call.
func (c call) fail(kind, cause error) *Error {
	return &Error{Array: c.array.config.Name, Op: c.op, Kind: kind, Line: c.line, Text: c.reply.text, Err: cause}
}

// look runs a script that changes nothing and gives the rows it printed. Without the sentinel there are no rows: an
// answer that was cut off must not look like "there is none".
func (a *Array) look(ctx context.Context, op string, statements ...string) (call, []row, error) {
	c, err := a.send(ctx, op, newScript(statements...))
	if err != nil {
		var e *Error
		if errors.As(err, &e) {
			e.MaybeApplied = false
		}
		return c, nil, err
	}
	if !c.reply.done {
		return c, nil, a.lookFailure(ctx, c)
	}
	rows, err := c.reply.rows()
	if err != nil {
		return c, nil, c.fail(ErrUnknown, err)
	}
	return c, rows, nil
}

// lookFailure tells why a look-up failed. Nothing was changed and nothing follows from it, so the device's own words
// are good enough for the policy. An old version does not know the words of the question.
func (a *Array) lookFailure(ctx context.Context, c call) error {
	if c.reply.saysPermission() {
		return c.fail(ErrPermission, a.needsPolicies())
	}
	if err := a.checkVersion(ctx); errors.Is(err, ErrUnsupported) {
		return c.fail(ErrUnsupported, err)
	}
	return c.fail(ErrUnknown, errUnfinished)
}

var errUnfinished = errors.New("the look-up did not come to its end")
