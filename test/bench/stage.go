package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/test/stack"
)

const stageRounds = 5

// The scripts do by hand what NodeStageVolume and NodeUnstageVolume do to the kernel.
var (
	//go:embed stage.sh
	stageScript string
	//go:embed unstage.sh
	unstageScript string
)

// volume is one volume of one contender, published to this node.
type volume struct {
	id      string
	publish map[string]string
	point   string   // where it is mounted
	env     []string // for the scripts
}

// stager stages and unstages volumes in one way.
type stager struct {
	name           string
	stage, unstage func(context.Context, volume) error
}

// stageBench is the part of the bench that runs in the machine.
type stageBench struct {
	stack *stack.Stack
	host  safety.Host
	dir   string
	all   map[string]volume // by contender and round
}

// benchStage compares staging and unstaging with the same kernel calls in a shell script, with the same in which
// nvme-cli makes the connection, and with a script that formats whatever it finds. It measures the memory of the
// programs before and after.
func benchStage(ctx context.Context, bin, logs, disk string) (_ []Row, err error) {
	b := stageBench{dir: "/run/rds-csi-bench", all: map[string]volume{}}
	pool := filepath.Join(disk, "pool")
	for _, dir := range []string{b.dir, pool} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	prefix, err := safety.ParsePrefix(managedPrefix)
	if err != nil {
		return nil, err
	}
	const cluster, node = "bench", "node-1"
	if b.host, err = safety.NewHost(cluster, node); err != nil {
		return nil, err
	}
	b.stack, err = stack.Start(ctx, stack.Config{
		Bin: bin, Dir: b.dir, Log: logs, Prefix: prefix, Cluster: cluster, Node: node, Kubelet: filepath.Join(b.dir, "kubelet"),
		Array: stack.Array{
			Name: "rds1", SSH: sshAddress, Portal: arrayPortal, Version: "7.24.4", Pool: "raid10", Format: "xfs", Size: "6G",
			Files: pool,
		},
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.stack.Stop()) }()
	rows, err := b.memory(ctx, "idle after start")
	if err != nil {
		return nil, err
	}
	races, err := b.races(ctx)
	if err != nil {
		return nil, err
	}
	after, err := b.memory(ctx, fmt.Sprintf("idle after %d volumes", stageRounds+1))
	return append(append(races, rows...), after...), err
}

func (b *stageBench) races(ctx context.Context) ([]Row, error) {
	all := []stager{
		{"csi", b.nodeStage, b.nodeUnstage},
		{"script", script(stageScript), script(unstageScript)},
		{"nvme-cli", script(stageScript, "NVME_CLI=1"), script(unstageScript, "NVME_CLI=1")},
		{"reckless", script(stageScript, "NVME_CLI=1", "RECKLESS=1"), script(unstageScript, "NVME_CLI=1")},
	}
	var staging, unstaging []contender
	for _, s := range all {
		staging = append(staging, b.contender(s.name, s.stage))
		unstaging = append(unstaging, b.contender(s.name, s.unstage))
	}
	stage, unstage := map[string][]time.Duration{}, map[string][]time.Duration{}
	// Round by round: a volume that is staged in one round is unstaged in the same. The first round loads programs and
	// modules into memory and does not count.
	for round := range stageRounds + 1 {
		if err := b.prepare(ctx, all, round); err != nil {
			return nil, err
		}
		if err := raceRound(ctx, round, staging, stage); err != nil {
			return nil, fmt.Errorf("stage: %w", err)
		}
		if err := raceRound(ctx, round, unstaging, unstage); err != nil {
			return nil, fmt.Errorf("unstage: %w", err)
		}
		if err := b.clear(ctx, all, round); err != nil {
			return nil, err
		}
		if round == 0 {
			clear(stage)
			clear(unstage)
		}
	}
	return []Row{
		ratio("NodeStageVolume / shell script", 1.3, stage["csi"], stage["script"]),
		ratio("NodeStageVolume / shell script with nvme-cli", 1.0, stage["csi"], stage["nvme-cli"]),
		// What is often done, and has formatted live data (facts/field.md): reported, and no measure for a driver.
		ratio("NodeStageVolume / nvme-cli and mkfs without a look at the disk", 0, stage["csi"], stage["reckless"]),
		lasted("NodeStageVolume, emulated processor", stage["csi"]),
		ratio("NodeUnstageVolume / shell script", 1.3, unstage["csi"], unstage["script"]),
		ratio("NodeUnstageVolume / shell script with nvme-cli", 1.0, unstage["csi"], unstage["nvme-cli"]),
		lasted("NodeUnstageVolume, emulated processor", unstage["csi"]),
	}, nil
}

func (b *stageBench) contender(name string, do func(context.Context, volume) error) contender {
	return contender{name, func(ctx context.Context, round int) (time.Duration, error) {
		return timed(func() error { return do(ctx, b.all[key(name, round)]) })
	}}
}

func key(name string, round int) string { return fmt.Sprintf("%s-%04d", name, round) }

// prepare makes a volume for each contender and publishes it to this node. All are blank and of one size.
func (b *stageBench) prepare(ctx context.Context, all []stager, round int) error {
	for _, s := range all {
		name := key(s.name, round)
		c, err := b.stack.Controller.CreateVolume(ctx, &csi.CreateVolumeRequest{
			Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: volumeSize},
			VolumeCapabilities: []*csi.VolumeCapability{ext4Capability()}, Parameters: map[string]string{"array": "rds1"},
		})
		if err != nil {
			return err
		}
		v := volume{id: c.GetVolume().GetVolumeId(), point: filepath.Join(b.dir, "kubelet", name)}
		p, err := b.stack.Controller.ControllerPublishVolume(ctx, &csi.ControllerPublishVolumeRequest{
			VolumeId: v.id, NodeId: b.host.ID(), VolumeCapability: ext4Capability(),
		})
		if err != nil {
			return err
		}
		v.publish = p.GetPublishContext()
		v.env = []string{
			"NQN=" + v.publish["nqn"], "ADDRESS=" + v.publish["address"], "PORT=" + v.publish["port"],
			"HOSTNQN=" + string(b.host.NQN()), "HOSTID=" + b.host.UUID.String(), "NAME=" + name, "POINT=" + v.point,
		}
		if err := os.MkdirAll(v.point, 0o755); err != nil {
			return err
		}
		b.all[name] = v
	}
	return nil
}

// clear deletes the round's volumes: the next round finds the array as this one did.
func (b *stageBench) clear(ctx context.Context, all []stager, round int) error {
	for _, s := range all {
		v := b.all[key(s.name, round)]
		_, err := b.stack.Controller.ControllerUnpublishVolume(ctx, &csi.ControllerUnpublishVolumeRequest{VolumeId: v.id, NodeId: b.host.ID()})
		if err != nil {
			return err
		}
		if _, err := b.stack.Controller.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.id}); err != nil {
			return err
		}
	}
	return nil
}

func (b *stageBench) nodeStage(ctx context.Context, v volume) error {
	_, err := b.stack.Node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id, PublishContext: v.publish, StagingTargetPath: v.point, VolumeCapability: ext4Capability(),
	})
	return err
}

func (b *stageBench) nodeUnstage(ctx context.Context, v volume) error {
	_, err := b.stack.Node.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id, StagingTargetPath: v.point})
	return err
}

// scriptTime bounds a script. In the emulated machine a good one takes seconds.
const scriptTime = time.Minute

// script gives a way to run a script for a volume.
func script(text string, env ...string) func(context.Context, volume) error {
	return func(ctx context.Context, v volume) error {
		ctx, cancel := context.WithTimeout(ctx, scriptTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", "-c", text)
		cmd.Env = append(append(append(os.Environ(), "LC_ALL=C"), v.env...), env...)
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("script: %w: %s", err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}

// idleTime is how long nothing is asked of the programs before their memory is read.
const idleTime = 5 * time.Second

// memory reads what each program holds of the machine's memory.
func (b *stageBench) memory(ctx context.Context, when string) ([]Row, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(idleTime):
	}
	var rows []Row
	for _, p := range b.stack.Programs {
		rss, err := p.RSS()
		if err != nil {
			return nil, err
		}
		target := 0.0
		if p.Name == "rds-csi-node" {
			target = 25
		}
		rows = append(rows, row("memory of "+p.Name+", "+when, "MB", target, []float64{float64(rss) / 1e6}))
	}
	return rows, nil
}
