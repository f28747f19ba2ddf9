package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/stack"
)

const (
	mib          = 1 << 20
	createRounds = 41
	// What a console command takes: nothing but the emulator's own work, and the 5 ms that a fast box on the same
	// switch takes. Real ones were seen to take hundreds (facts/field.md), which hides any driver.
	noLatency, switchLatency = 0, 5 * time.Millisecond
)

// benchCreate compares CreateVolume, as external-provisioner calls it through the controller's socket, with what it
// cannot do without: the very line that it sends, typed over an SSH connection that is open already. The line holds the
// guards and the look back that a create needs; the third contender is an operator who trusts in luck.
func benchCreate(ctx context.Context, bin, logs string) ([]Row, error) {
	var rows []Row
	for _, array := range []struct {
		answers string
		latency time.Duration
		target  float64
	}{{"array answers at once", noLatency, 0}, {"array answers in " + switchLatency.String(), switchLatency, 1.2}} {
		times, err := raceCreate(ctx, bin, logs, array.latency)
		if err != nil {
			return nil, fmt.Errorf("create, %s: %w", array.answers, err)
		}
		rows = append(rows,
			ratio("CreateVolume / the same SSH command, "+array.answers, array.target, times["csi"], times["ssh"]),
			ratio("CreateVolume / a bare /disk/add, "+array.answers, 0, times["csi"], times["bare"]),
			lasted("CreateVolume, "+array.answers, times["csi"]))
	}
	return rows, nil
}

func raceCreate(ctx context.Context, bin, logs string, latency time.Duration) (_ map[string][]time.Duration, err error) {
	dir, err := os.MkdirTemp("", "rds-csi-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, removeFiles(dir)) }()
	prefix, err := safety.ParsePrefix(managedPrefix)
	if err != nil {
		return nil, err
	}
	address, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	s, err := stack.Start(ctx, stack.Config{
		Bin: bin, Dir: dir, Log: logs, Prefix: prefix, Cluster: "bench",
		Array: stack.Array{
			Name: "rds1", SSH: address, Portal: arrayPortal, Version: "7.24.4", Pool: "raid10", Format: "xfs", Size: "1T",
			Latency: latency, Trace: true,
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	console, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = console.Close() }()

	// What nobody's steady state has comes first: the first call reads the pool. It also shows the line.
	create := func(ctx context.Context, name string) (*csi.Volume, error) {
		r, err := s.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: volumeSize},
			VolumeCapabilities: []*csi.VolumeCapability{ext4Capability()}, Parameters: map[string]string{"array": "rds1"},
		})
		return r.GetVolume(), err
	}
	if _, err := create(ctx, "bench-first"); err != nil {
		return nil, err
	}
	first := identity{"bench-first", safety.VolumeUUID(prefix, "bench-first")}
	line, err := first.find(s.Program("routeros-emulator").Log)
	if err != nil {
		return nil, err
	}
	typed := func(ctx context.Context, round int) (time.Duration, error) {
		name := fmt.Sprintf("bench-%04d-ssh", round)
		mine := identity{name, safety.VolumeUUID(prefix, name)}
		return timed(func() error {
			answer, err := stack.Run(ctx, console, first.become(mine, line))
			if err == nil && !strings.Contains(answer, string(safety.SlotOf(mine.uuid))) { // the new row
				err = fmt.Errorf("the array answers %q", answer)
			}
			return err
		})
	}
	driver := func(ctx context.Context, round int) (time.Duration, error) {
		return timed(func() error {
			_, err := create(ctx, fmt.Sprintf("bench-%04d-csi", round))
			return err
		})
	}
	bare := func(ctx context.Context, round int) (time.Duration, error) {
		add := fmt.Sprintf(`:put [/disk/add type=file file-path="/raid10/csi/bare-%[1]d.img" file-size=%[2]d slot="bare-%[1]d" mount-filesystem=no]`,
			round, volumeSize)
		return timed(func() error {
			answer, err := stack.Run(ctx, console, add)
			if err == nil && !strings.HasPrefix(answer, "*") { // the new item's number
				err = fmt.Errorf("the array answers %q", answer)
			}
			return err
		})
	}
	if _, err := typed(ctx, createRounds); err != nil { // the first channel of the connection
		return nil, err
	}
	return race(ctx, createRounds, contender{"csi", driver}, contender{"ssh", typed}, contender{"bare", bare})
}

// identity is what of a command line belongs to one volume.
type identity struct {
	name string
	uuid safety.UUID
}

// find looks in the emulator's trace for the line that made the volume.
func (i identity) find(trace string) (string, error) {
	b, err := os.ReadFile(trace)
	if err != nil {
		return "", err
	}
	slot := string(safety.SlotOf(i.uuid))
	for text := range strings.Lines(string(b)) {
		var entry struct{ Line string }
		if json.Unmarshal([]byte(text), &entry) != nil {
			continue // the known_hosts line is for people
		}
		if strings.Contains(entry.Line, "/disk/add") && strings.Contains(entry.Line, slot) {
			return entry.Line, nil
		}
	}
	return "", fmt.Errorf("trace %s: no line makes the disk %s", trace, slot)
}

// become makes the line that makes the volume into the one that makes another.
func (i identity) become(other identity, line string) string {
	return strings.NewReplacer(
		string(safety.SlotOf(i.uuid)), string(safety.SlotOf(other.uuid)), i.uuid.String(), other.uuid.String(), i.name, other.name,
	).Replace(line)
}

const (
	volumeSize    = 512 * mib
	managedPrefix = "nqn.2000-02.com.mikrotik:bench-"
)

var arrayPortal = netip.MustParseAddrPort("127.0.0.1:4420")

func ext4Capability() *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
}

// freePort gives a port of this machine on which nobody listens just now.
func freePort(ctx context.Context) (netip.AddrPort, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer func() { _ = l.Close() }()
	return netip.ParseAddrPort(l.Addr().String())
}
