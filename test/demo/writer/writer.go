// Package writer is a program that appends records to a file on the volume, fsyncs each, and logs what each of them
// took; it refuses to retry, reopen or hide anything, because it stands for one that knows nothing of the array.
package writer

import (
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"srvlab.io/rds-csi/test/demo/record"
)

// maxErrors ends a writer whose volume is broken for good: its log has shown that by then.
const maxErrors = 20

// Options say where to write.
type Options struct {
	File     string        // to append to; it must not exist
	Log      string        // for the log, on another file system than the volume's; it must not exist
	Stream   record.Stream // marks the records as this writer's
	Interval time.Duration // pause between two records
}

// Args gives the command line that Parse reads.
func (o Options) Args() []string {
	return []string{
		"-file", o.File, "-log", o.Log, "-stream", hex.EncodeToString(o.Stream[:]), "-interval", o.Interval.String(),
	}
}

// Parse reads a command line.
func Parse(args []string) (Options, error) {
	var o Options
	flags := flag.NewFlagSet("writer", flag.ContinueOnError)
	flags.StringVar(&o.File, "file", "", "file to append to; it must not exist")
	flags.StringVar(&o.Log, "log", "", "file for the log, on another file system than the volume's")
	stream := flags.String("stream", "", "hexadecimal digits that mark the records as this writer's")
	flags.DurationVar(&o.Interval, "interval", 100*time.Millisecond, "pause between two records")
	if err := flags.Parse(args); err != nil {
		return Options{}, err
	}
	b, err := hex.DecodeString(*stream)
	if err != nil || len(b) != len(o.Stream) {
		return Options{}, fmt.Errorf("stream %q: must be %d hexadecimal digits", *stream, 2*len(o.Stream))
	}
	o.Stream = record.Stream(b)
	return o, nil
}

// Run writes until ctx ends, and then lets the record that it is at come to its end.
func Run(ctx context.Context, o Options) (err error) {
	data, err := os.OpenFile(o.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.Close()) }()
	log, err := os.OpenFile(o.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()

	tick := time.NewTicker(o.Interval)
	defer tick.Stop()
	failed := 0
	for seq := uint64(1); failed < maxErrors; seq++ {
		w, err := write(data, o.Stream, seq)
		if err != nil {
			return err
		}
		if w.Err != "" {
			failed++
		}
		if _, err := log.Write(w.Append(nil)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return fmt.Errorf("%d writes failed, see %s", failed, o.Log)
}

// write appends one record. What the volume answers is part of the Write; an error is only that of the clock.
func write(data *os.File, s record.Stream, seq uint64) (record.Write, error) {
	b := record.Encode(s, seq)
	begin, err := record.Clock()
	if err != nil {
		return record.Write{}, err
	}
	_, answer := data.Write(b)
	if answer == nil {
		answer = data.Sync()
	}
	end, err := record.Clock()
	if err != nil {
		return record.Write{}, err
	}
	w := record.Write{Seq: seq, Begin: begin, End: end}
	if answer != nil {
		w.Err = answer.Error()
	}
	return w, nil
}
