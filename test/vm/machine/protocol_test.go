package machine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestFramesComeAsTheyWereSent(t *testing.T) {
	var line bytes.Buffer
	p := newPort(&line)
	sent := []frame{
		{frameStart, 1, []byte(`{}`)},
		{frameStdout, 1 << 31, []byte("a\x00\r\n\xff")},
		{frameStdinEnd, 7, nil},
		{frameStderr, 7, bytes.Repeat([]byte("x"), maxFrame)},
	}
	for _, f := range sent {
		if err := p.send(f.kind, f.id, f.payload); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range sent {
		got, err := p.receive()
		if err != nil || got.kind != want.kind || got.id != want.id || !bytes.Equal(got.payload, want.payload) {
			t.Errorf("kind %d, id %d, %d bytes, %v; want kind %d", got.kind, got.id, len(got.payload), err, want.kind)
		}
	}
	if _, err := p.receive(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	if err := p.send(frameStdout, 1, make([]byte, maxFrame+1)); !errors.Is(err, errFrame) {
		t.Errorf("too large: %v", err)
	}
}

func TestBrokenLines(t *testing.T) {
	for name, line := range map[string]string{
		"zeros":            strings.Repeat("\x00", 32),
		"a line of text":   "Kernel panic - not syncing\n",
		"unknown kind":     string(rune(frameKinds)) + strings.Repeat("\x00", 8),
		"absurd length":    "\x01\x00\x00\x00\x00\xff\xff\xff\xff",
		"torn header":      "\x01\x00\x00",
		"torn payload":     "\x01\x00\x00\x00\x00\x00\x00\x00\x05abc",
		"payload is there": "\x01\x00\x00\x00\x00\x00\x00\x00\x05",
	} {
		f, err := newPort(bytes.NewBufferString(line)).receive()
		if err == nil || err.Error() == io.EOF.Error() { // the bare one is the orderly end
			t.Errorf("%s: frame %v, error %v", name, f, err)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x01\x00\x00\x00\x02{}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := newPort(bytes.NewBuffer(line)).receive()
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := newPort(&again).send(got.kind, got.id, got.payload); err != nil || !bytes.HasPrefix(line, again.Bytes()) {
			t.Errorf("%q was read as %q, %v", line, again.Bytes(), err)
		}
	})
}
