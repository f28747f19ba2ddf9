package routeros

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"srvlab.io/rds-csi/safety"
)

// Check tells whether the array is ready for new volumes; each shortfall is a safety.Refusal of its own that says what
// to do. It makes the volumes' directory if it is not there. Calls on volumes that exist do not ask it: a pool that
// has lost a disk must not keep anybody from reaching what is on it.
func (a *Array) Check(ctx context.Context) error {
	var all []error
	for _, check := range []func(context.Context) error{a.checkVersion, a.checkPackage, a.checkPolicies, a.checkPool} {
		err := check(ctx)
		if errors.Is(err, ErrUnreachable) { // so will be the others
			return errors.Join(append(all, safety.Refuse(safety.ArrayUnreachable, err))...)
		}
		if err != nil {
			all = append(all, safety.Refuse(safety.ArrayNotReady, err))
		}
	}
	return errors.Join(all...)
}

// checkPool also makes the directory, which it can only where the pool is usable.
func (a *Array) checkPool(ctx context.Context) error {
	pool, err := a.placeAgain(ctx)
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w; name the slot of the pool's disk in arrays.yaml as /disk/print shows it", err)
	}
	if err != nil {
		return err
	}
	if !pool.clean() {
		return a.misuse("read pool "+a.config.Pool, fmt.Errorf("the pool's state is %q, not clean; see /disk/print detail "+
			"where raid-member-failed, and replace what failed", pool.State))
	}
	return a.makeDirectory(ctx, pool)
}

// clean tells whether the pool may take new volumes. "clean, sync:repair, resync = …" is a RAID that is whole and
// being read through, and a disk that is no RAID has no state. How a degraded RAID is called is not known, so
// everything else is not clean.
func (p Pool) clean() bool {
	first, _, _ := strings.Cut(p.State, ",")
	return first == "" || first == "clean" || first == "active"
}
