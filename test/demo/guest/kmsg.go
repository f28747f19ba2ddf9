package guest

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelLog reads /dev/kmsg from the moment it was opened on.
type kernelLog struct {
	fd    int
	lines []kernelLine // all that were read
}

// kernelLine is one record of the kernel's log.
type kernelLine struct {
	At   float64 // seconds since boot
	Text string
}

func (l kernelLine) String() string { return fmt.Sprintf("[%11.6f] %s", l.At, l.Text) }

// concerns is what a demo about volumes wants to hear of: everything else in the log is noise here.
var concerns = regexp.MustCompile(`nvme|device-mapper|\bdm-|EXT4-fs|JBD2|I/O error|multipath`)

func openKernelLog() (*kernelLog, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/kmsg: %w", err)
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, errors.Join(fmt.Errorf("seek in /dev/kmsg: %w", err), unix.Close(fd))
	}
	return &kernelLog{fd: fd}, nil
}

func (k *kernelLog) close() error { return unix.Close(k.fd) }

// next gives the lines since the last call, those that concern volumes.
func (k *kernelLog) next() ([]kernelLine, error) {
	var lines []kernelLine
	for buf := make([]byte, 8192); ; {
		n, err := unix.Read(k.fd, buf)
		switch {
		case errors.Is(err, unix.EAGAIN): // nothing more for now
			k.lines = append(k.lines, lines...)
			return lines, nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // the ring overtook us: the next read goes on with what is left
		case err != nil:
			return nil, fmt.Errorf("read /dev/kmsg: %w", err)
		}
		line, err := parseKernelLine(string(buf[:n]))
		if err != nil {
			return nil, err
		}
		if concerns.MatchString(line.Text) {
			lines = append(lines, line)
		}
	}
}

// since gives the lines read so far that are not older than at and match re.
func (k *kernelLog) since(at float64, re *regexp.Regexp) []kernelLine {
	var lines []kernelLine
	for _, l := range k.lines {
		if l.At >= at && re.MatchString(l.Text) {
			lines = append(lines, l)
		}
	}
	return lines
}

// parseKernelLine takes a record of /dev/kmsg apart: "6,1234,98765432,-;text\n KEY=value\n", with the time in
// microseconds (Documentation/ABI/testing/dev-kmsg).
func parseKernelLine(record string) (kernelLine, error) {
	head, text, found := strings.Cut(record, ";")
	field := strings.Split(head, ",")
	if !found || len(field) < 4 {
		return kernelLine{}, fmt.Errorf("record of /dev/kmsg %q: is not level, sequence, time and flags before a semicolon", record)
	}
	us, err := strconv.ParseUint(field[2], 10, 64)
	if err != nil {
		return kernelLine{}, fmt.Errorf("record of /dev/kmsg %q: time: %w", record, err)
	}
	text, _, _ = strings.Cut(text, "\n")
	return kernelLine{At: float64(us) / 1e6, Text: text}, nil
}
