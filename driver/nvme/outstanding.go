package nvme

import (
	"context"
	"sync"

	"srvlab.io/rds-csi/safety"
)

// A write to /dev/nvme-fabrics or delete_controller may block for minutes, or for ever, where no signal reaches it
// (longhorn/longhorn#11701). So it runs in a goroutine that its caller abandons when the deadline passes, at most one
// for each NQN: whoever retries meanwhile is refused, so hung calls do not pile up, and a connect that succeeds late
// cannot cross a disconnect.

// outstanding are the calls under way in this process. It is a variable of the package because what it counts, the
// kernel's controllers, is one for all Hosts.
var outstanding = register{calls: map[place]*call{}}

// place is one NQN below one /sys; tests have several.
type place struct {
	sys string
	nqn safety.NQN
}

type register struct {
	mu    sync.Mutex
	calls map[place]*call
}

// call is one call under way.
type call struct {
	op string
	// stage tells whether the call may still act when its caller has gone.
	stage stage
}

type stage int

const (
	preparing stage = iota // reading; nothing was changed yet
	acting                 // writing to the kernel: nobody can take that back
	abandoned              // the caller has gone before the call acted: it must not act any more
)

// run runs f in a goroutine and gives its result, or ctx's error if that ends first; f then ends in its own time, or
// never. Before f writes to the kernel it calls act, and writes only if that answers true: after the caller was told
// that nothing happened, nothing may happen. acted tells whether the write was begun. With a call for p under way
// already, run gives its name as busy and does nothing.
func (r *register) run(ctx context.Context, p place, op string, f func(act func() bool) error) (busy string, acted bool, err error) {
	c := &call{op: op}
	r.mu.Lock()
	if other := r.calls[p]; other != nil {
		r.mu.Unlock()
		return other.op, false, nil
	}
	r.calls[p] = c
	r.mu.Unlock()

	done := make(chan error, 1) // one place, so that an abandoned f can leave its result and go
	go func() {
		err := f(func() bool { return r.move(c, acting) })
		r.mu.Lock()
		delete(r.calls, p)
		r.mu.Unlock()
		done <- err
	}()
	select {
	case err := <-done:
		return "", c.stage == acting, err
	case <-ctx.Done():
		acted := !r.move(c, abandoned)
		return "", acted, ctx.Err()
	}
}

// move takes c to stage to, unless it has gone to the other end before.
func (r *register) move(c *call, to stage) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.stage == preparing {
		c.stage = to
	}
	return c.stage == to
}

// acting names the call for p that is writing to the kernel, "" if there is none.
func (r *register) acting(p place) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.calls[p]; c != nil && c.stage == acting {
		return c.op
	}
	return ""
}
