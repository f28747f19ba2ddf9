package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/safety"
)

// candidate is an array that a volume may go to. Those of a lower rank are preferred.
type candidate struct {
	*array
	rank int
}

// candidates gives the arrays that parameters and topology allow, in the topology's order of preference: none where
// no array is reachable from any of the nodes asked for.
func (c *Controller) candidates(fixed safety.ArrayName, want *csi.TopologyRequirement) []candidate {
	var all []candidate
	terms := slices.Concat(want.GetPreferred(), want.GetRequisite())
	if len(terms) == 0 {
		terms = []*csi.Topology{c.everywhere()}
	}
	seen := map[safety.ArrayName]bool{}
	for rank, term := range terms {
		for _, name := range c.names {
			reached := term.GetSegments()[driver.TopologyKey(name)] == driver.TopologyValue
			if seen[name] || !reached || fixed != "" && fixed != name {
				continue
			}
			seen[name] = true
			all = append(all, candidate{array: c.arrays[name], rank: rank})
		}
	}
	return all
}

// everywhere is the topology of a node that reaches all arrays.
func (c *Controller) everywhere() *csi.Topology {
	t := &csi.Topology{Segments: map[string]string{}}
	for _, name := range c.names {
		t.Segments[driver.TopologyKey(name)] = driver.TopologyValue
	}
	return t
}

// outcome is what a candidate answered to survey.
type outcome struct {
	disk  routeros.Disk
	found bool
	pool  routeros.Pool
	err   error
}

// survey asks all candidates at once whether the volume is there, and for their pools. One that cannot tell is an
// error: the volume may be there, and a second copy of it elsewhere would be one volume with two contents.
func survey(ctx context.Context, all []candidate, slot safety.Slot) ([]outcome, error) {
	outcomes := make([]outcome, len(all))
	var asked sync.WaitGroup
	for i, a := range all {
		asked.Go(func() { outcomes[i] = look(ctx, a.array, slot) })
	}
	asked.Wait()
	var errs []error
	for _, o := range outcomes {
		errs = append(errs, o.err)
	}
	return outcomes, errors.Join(errs...)
}

func look(ctx context.Context, a *array, slot safety.Slot) outcome {
	d, err := a.Disk(ctx, slot)
	switch {
	case err == nil:
		return outcome{disk: d, found: true}
	case !errors.Is(err, routeros.ErrNotFound):
		return outcome{err: refusal(err)}
	}
	p, err := a.Pool(ctx)
	if err != nil {
		return outcome{err: refusal(err)}
	}
	return outcome{pool: p}
}

// place finds the volume on one of several candidates, or picks the array for it: v has no disk then.
func place(ctx context.Context, all []candidate, slot safety.Slot, size int64) (v volume, found bool, err error) {
	outcomes, err := survey(ctx, all, slot)
	for i, o := range outcomes {
		if o.found { // it is here, so what the others could not tell does not matter
			return volume{all[i].array, o.disk}, true, nil
		}
	}
	if err != nil {
		return volume{}, false, err
	}
	a, err := pick(ctx, all, outcomes, size)
	return volume{array: a}, false, err
}

// option is a candidate that has room.
type option struct {
	candidate
	room int64
}

// better puts the preferred rank first, and of one rank the array with most room.
func better(x, y option) int { return cmp.Or(cmp.Compare(x.rank, y.rank), cmp.Compare(y.room, x.room)) }

// pick chooses an array for a new volume among those that are ready and have room.
func pick(ctx context.Context, all []candidate, outcomes []outcome, size int64) (*array, error) {
	var options []option
	var short []string // what those without room have
	var notReady []error
	never := true // no array would have room if it were empty
	for i, a := range all {
		p := outcomes[i].pool
		if err := a.ready(ctx); err != nil {
			notReady = append(notReady, err)
			continue
		}
		never = never && size > p.SizeBytes
		if p.Room() < size {
			short = append(short, figures(a.Name(), p, size))
			continue
		}
		options = append(options, option{a, p.Room()})
	}
	why := strings.Join(short, "; ")
	switch {
	case len(options) > 0:
		return slices.MinFunc(options, better).array, nil
	case len(short) == 0:
		return nil, errors.Join(notReady...)
	case never && len(notReady) == 0:
		return nil, status.Error(codes.OutOfRange, "no array is that large: "+why)
	default:
		return nil, safety.Refuse(safety.NoSpace, errors.Join(append(notReady, errors.New(why))...))
	}
}

// unreachable is the answer where no candidate is left. CSI has RESOURCE_EXHAUSTED for "cannot be provisioned in the
// accessible topology"; external-provisioner then tries another node.
func (c *Controller) unreachable(fixed safety.ArrayName, want *csi.TopologyRequirement) error {
	keys := map[string]bool{}
	for _, term := range slices.Concat(want.GetPreferred(), want.GetRequisite()) {
		for k := range term.GetSegments() {
			keys[k] = true
		}
	}
	wanted := "any of " + c.known()
	if fixed != "" {
		wanted = "array " + string(fixed)
	}
	return status.Error(codes.ResourceExhausted, fmt.Sprintf("the nodes asked for do not reach %s: their topology has %s",
		wanted, cmp.Or(strings.Join(slices.Sorted(maps.Keys(keys)), ", "), "nothing")))
}
