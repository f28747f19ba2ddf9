package writer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/test/demo/record"
)

var stream = record.Stream{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func TestWriterLeavesWhatItLogged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, logFile := filepath.Join(dir, "data"), filepath.Join(dir, "log")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := Run(ctx, Options{file, logFile, stream, time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	log := readLog(t, logFile)
	if s := record.Summarize(log); s.Writes == 0 || s.Errors != 0 {
		t.Errorf("got %+v", s)
	}
	data, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = data.Close() }()
	v, err := record.Verify(data, stream, log)
	if err != nil || !v.Clean() || v.Whole != len(log) {
		t.Errorf("%d in the log; in the file: %v, %v", len(log), v, err)
	}
}

// TestWriterLogsWhatTheVolumeAnswers writes to a disk that is full: /dev/full answers ENOSPC.
func TestWriterLogsWhatTheVolumeAnswers(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	w, err := write(full, record.Stream{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(w.Err, "no space left on device") {
		t.Errorf("got %+v", w)
	}
}

// TestWriterRefusesAFileThatExists: appending to an earlier run's records would hide what this one lost.
func TestWriterRefusesAFileThatExists(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("data of somebody"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{there, filepath.Join(t.TempDir(), "log"), stream, time.Millisecond})
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v", err)
	}
	if b, err := os.ReadFile(there); err != nil || string(b) != "data of somebody" {
		t.Errorf("the file that was there holds %q, %v", b, err)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	want := Options{"/v/records", "/run/log", stream, 250 * time.Millisecond}
	if got, err := Parse(want.Args()); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "0001", strings.Repeat("x", 32), strings.Repeat("0", 34)} {
		if got, err := Parse([]string{"-stream", bad}); err == nil {
			t.Errorf("stream %q was read as %v", bad, got.Stream)
		}
	}
}

func readLog(t *testing.T, file string) []record.Write {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	log, err := record.ReadLog(f)
	if err != nil {
		t.Fatal(err)
	}
	return log
}
