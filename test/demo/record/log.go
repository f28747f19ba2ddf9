package record

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Write is one line of the writer's log: the append and fsync of one record.
type Write struct {
	Seq        uint64
	Begin, End time.Duration // on Clock
	Err        string        // what the kernel answered the writer; "" is an acknowledged record
}

// Took gives how long the writer waited for this record.
func (w Write) Took() time.Duration { return w.End - w.Begin }

// Clock gives the time since boot by CLOCK_MONOTONIC: the same for all processes of one machine, never set, and the
// one that the kernel's log is stamped with, so that a stall and the line that explains it can be laid side by side.
func Clock() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// Append gives w as a line of the log: sequence number, begin and end in nanoseconds, and the error as a quoted string.
func (w Write) Append(line []byte) []byte {
	return fmt.Appendf(line, "%d %d %d %q\n", w.Seq, w.Begin.Nanoseconds(), w.End.Nanoseconds(), w.Err)
}

// ReadLog reads a log that may still be written: a last line without its newline is not there yet. Any other line
// that is not as Append writes it is an error.
func ReadLog(r io.Reader) ([]Write, error) {
	in := bufio.NewReader(r)
	var log []Write
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return log, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the writer's log: %w", err)
		}
		w, err := parseWrite(string(bytes.TrimSuffix(line, []byte("\n"))))
		if err != nil {
			return nil, fmt.Errorf("the writer's log, line %d %q: %w", len(log)+1, line, err)
		}
		log = append(log, w)
	}
}

func parseWrite(line string) (Write, error) {
	field := strings.SplitN(line, " ", 4)
	if len(field) != 4 {
		return Write{}, errors.New("is not sequence number, begin, end and error")
	}
	seq, errSeq := strconv.ParseUint(field[0], 10, 64)
	begin, errBegin := strconv.ParseInt(field[1], 10, 64)
	end, errEnd := strconv.ParseInt(field[2], 10, 64)
	text, errText := strconv.Unquote(field[3])
	if err := errors.Join(errSeq, errBegin, errEnd, errText); err != nil {
		return Write{}, err
	}
	return Write{Seq: seq, Begin: time.Duration(begin), End: time.Duration(end), Err: text}, nil
}

// Summary is what a writer went through.
type Summary struct {
	Writes         int     `json:"writes"` // acknowledged by fsync
	Errors         int     `json:"errors"` // answered with an error
	FirstError     string  `json:"firstError,omitempty"`
	MedianSeconds  float64 `json:"medianSeconds"` // of one append and fsync
	LongestSeconds float64 `json:"longestStallSeconds"`
	StallFrom      float64 `json:"longestStallFrom"` // on Clock, in seconds
}

// Summarize folds a log.
func Summarize(log []Write) Summary {
	var s Summary
	took := make([]time.Duration, 0, len(log))
	longest := time.Duration(-1)
	for _, w := range log {
		took = append(took, w.Took())
		if w.Took() > longest {
			longest = w.Took()
			s.LongestSeconds, s.StallFrom = longest.Seconds(), w.Begin.Seconds()
		}
		if w.Err == "" {
			s.Writes++
			continue
		}
		s.Errors++
		if s.FirstError == "" {
			s.FirstError = w.Err
		}
	}
	s.MedianSeconds = median(took).Seconds()
	return s
}

// median gives the middle of the values, the mean of the two middle ones where their number is even, 0 of none.
func median(values []time.Duration) time.Duration {
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}
