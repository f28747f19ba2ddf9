package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"srvlab.io/rds-csi/test/demo/report"
)

// inventory is what is there at one moment, by kind. Each thing is a line that names it.
type inventory map[string][]string

// takeInventory looks at everything that a volume leaves a trace in, on the node and on the array.
func (d *demo) takeInventory(ctx context.Context) (inventory, error) {
	all := inventory{}
	for kind, look := range map[string]func(context.Context) ([]string, error){
		"mounts":                      mountPoints,
		"mappings":                    func(context.Context) ([]string, error) { return named("/sys/block/dm-*/dm/name") },
		"NVMe controllers":            func(context.Context) ([]string, error) { return named("/sys/class/nvme/*/subsysnqn") },
		"exports of the array":        func(context.Context) ([]string, error) { return bases("/sys/kernel/config/nvmet/ports/*/subsystems/*") },
		"disk rows of the array":      d.diskRows,
		"files of the array":          func(context.Context) ([]string, error) { return tree(d.pool) },
		"files of kubelet":            func(context.Context) ([]string, error) { return tree(d.kubelet) },
		"loop devices":                func(context.Context) ([]string, error) { return named("/sys/block/loop*/loop/backing_file") },
		"subsystems of the target":    func(context.Context) ([]string, error) { return bases("/sys/kernel/config/nvmet/subsystems/*") },
		"NVMe subsystems of the node": func(context.Context) ([]string, error) { return named("/sys/class/nvme-subsystem/*/subsysnqn") },
	} {
		things, err := look(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for %s: %w", kind, err)
		}
		slices.Sort(things)
		all[kind] = things
	}
	return all, nil
}

// compare gives what is in after and not in before, and the other way round. A thing that is there twice counts twice.
func compare(before, after inventory) report.Left {
	left := report.Left{Extra: []string{}, Missing: []string{}} // lists in the report, not null
	for kind, was := range before {
		left.Checked = append(left.Checked, kind)
		left.Extra = append(left.Extra, missing(kind, after[kind], was)...)
		left.Missing = append(left.Missing, missing(kind, was, after[kind])...)
	}
	slices.Sort(left.Checked)
	slices.Sort(left.Extra)
	slices.Sort(left.Missing)
	return left
}

// missing gives the things of one list that the other has not, or has fewer times.
func missing(kind string, of, in []string) []string {
	in = slices.Clone(in)
	var lines []string
	for _, thing := range of {
		if i := slices.Index(in, thing); i >= 0 {
			in = slices.Delete(in, i, i+1)
			continue
		}
		lines = append(lines, kind+": "+thing)
	}
	return lines
}

func mountPoints(context.Context) ([]string, error) {
	f, err := os.Open("/proc/1/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var points []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		field := strings.Fields(in.Text())
		if len(field) < 5 {
			return nil, fmt.Errorf("mountinfo: %q has no mount point", in.Text())
		}
		points = append(points, field[2]+" "+field[3]+" at "+field[4])
	}
	return points, in.Err()
}

// diskRows asks the array over SSH, as an operator would.
func (d *demo) diskRows(ctx context.Context) ([]string, error) {
	reply, err := d.stack.Console(ctx, ":put [:serialize to=json options=json.no-string-conversion [/disk/print detail as-value]]")
	if err != nil {
		return nil, err
	}
	var rows []struct {
		Slot    string `json:"slot"`
		Comment string `json:"comment"`
	}
	if err := json.Unmarshal([]byte(reply), &rows); err != nil {
		return nil, fmt.Errorf("rows of /disk in %q: %w", reply, err)
	}
	var lines []string
	for _, r := range rows {
		lines = append(lines, strings.TrimSpace(r.Slot+" "+r.Comment))
	}
	return lines, nil
}

// named gives the one line in each file that matches.
func named(pattern string) ([]string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	var lines []string
	for _, file := range files {
		line, err := readLine(file)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

func bases(pattern string) ([]string, error) {
	files, err := filepath.Glob(pattern)
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files, err
}

// tree names everything below a directory.
func tree(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if path != dir {
			names = append(names, path)
		}
		return err
	})
	return names, err
}
