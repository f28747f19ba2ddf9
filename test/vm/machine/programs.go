package machine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// MissingProgramError names what has to be installed.
type MissingProgramError struct{ Program, Package string }

func (e *MissingProgramError) Error() string {
	return fmt.Sprintf("%s is not there: install the package %s", e.Program, e.Package)
}

// packageOf is the Debian package of each program that this package runs.
var packageOf = map[string]string{
	"apt-cache":          "apt",
	"apt-get":            "apt",
	"busybox":            "busybox-static",
	"depmod":             "kmod",
	"dpkg":               "dpkg",
	"mkfs.ext4":          "e2fsprogs",
	"modprobe":           "kmod",
	"qemu-system-x86_64": "qemu-system-x86",
	"xz":                 "xz-utils",
}

// systemPath is searched after the user's own: depmod and mkfs are in sbin, which many users do not have.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for dir := range strings.SplitSeq(systemPath, ":") {
		if path, err := exec.LookPath(dir + "/" + program); err == nil {
			return path, nil
		}
	}
	return "", &MissingProgramError{Program: program, Package: packageOf[program]}
}

// output runs a program of the host with a deadline and gives its standard output.
func output(ctx context.Context, timeout time.Duration, dir, program string, args ...string) (string, error) {
	path, err := lookPath(program)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":"+systemPath)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}
