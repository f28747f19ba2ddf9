package machine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// frameKind says what a frame carries. The zero value is no kind, so that a line of zeros is no message.
type frameKind byte

const (
	frameConfig     frameKind = iota + 1 // host → guest, guestConfig: the first frame
	frameReady                           // guest → host, guestReady: the answer to it
	frameStart                           // host → guest, startRequest
	frameStdin                           // host → guest, bytes; the next is sent when this one was taken
	frameStdinTaken                      // guest → host, empty
	frameStdinEnd                        // host → guest, empty
	frameSignal                          // host → guest, one byte: the signal for the command's process group
	frameResize                          // host → guest, windowSize
	frameStdout                          // guest → host, bytes
	frameStderr                          // guest → host, bytes
	frameExit                            // guest → host, exitReport: the last frame of a command
	framePowerOff                        // host → guest, empty
	frameKinds                           // the first value that is no kind
)

// maxFrame bounds a payload. A length beyond it means that the two sides lost step, and reading on would wait for
// ever for bytes that never come.
const maxFrame = 1 << 20

var errFrame = errors.New("broken frame")

// frame is one message on the serial port. ID tells the commands of one machine apart; it is 0 outside a command.
type frame struct {
	kind    frameKind
	id      uint32
	payload []byte
}

// guestConfig is what the guest is told once, before anything runs.
type guestConfig struct {
	Hostname string       `json:"hostname"`
	DiskDir  string       `json:"diskDir"` // where the virtio disk is mounted
	Modules  string       `json:"modules"` // directory of the kernel's modules, on the host's file system
	Release  string       `json:"release"`
	Shares   []guestShare `json:"shares"`
	Links    []guestLink  `json:"links"`
}

// guestShare is a 9p share that the guest mounts, writable, where the host has it.
type guestShare struct {
	Tag string `json:"tag"`
	Dir string `json:"dir"`
}

// guestLink is a network interface with its address, found by its hardware address.
type guestLink struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // with prefix length
	Gateway string `json:"gateway"` // empty: none
}

// guestReady reports that the guest is set up, or why it is not.
type guestReady struct {
	Release string `json:"release"`
	Err     string `json:"err"`
}

// startRequest is a command as the guest gets it.
type startRequest struct {
	Args     []string    `json:"args"`
	Env      []string    `json:"env"`
	Dir      string      `json:"dir"`
	Stdin    bool        `json:"stdin"`
	Merged   bool        `json:"merged"`   // standard error goes where standard output goes
	Terminal *windowSize `json:"terminal"` // nil: pipes
}

// windowSize is that of a terminal, in characters.
type windowSize struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// exitReport ends a command. Err is set when it could not be started.
type exitReport struct {
	Code int    `json:"code"`
	Err  string `json:"err"`
}

// port is one end of the serial line. Frames may be sent from several goroutines, but only one may receive.
type port struct {
	r  io.Reader
	mu sync.Mutex // guards w: a frame must not be torn by another
	w  io.Writer
}

func newPort(rw io.ReadWriter) *port { return &port{r: rw, w: rw} }

const frameHeader = 1 + 4 + 4

func (p *port) send(kind frameKind, id uint32, payload []byte) error {
	if len(payload) > maxFrame {
		return fmt.Errorf("send %d bytes: %w: more than %d", len(payload), errFrame, maxFrame)
	}
	// One write for header and payload: the console driver makes a message of each write, and each costs an exit
	// of the emulated processor.
	buf := make([]byte, frameHeader, frameHeader+len(payload))
	buf[0] = byte(kind)
	binary.BigEndian.PutUint32(buf[1:], id)
	binary.BigEndian.PutUint32(buf[5:], uint32(len(payload)))
	buf = append(buf, payload...)
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.w.Write(buf); err != nil {
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

func (p *port) sendJSON(kind frameKind, id uint32, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return p.send(kind, id, payload)
}

// receive gives the next frame. The error is io.EOF only when the line ended between two frames.
func (p *port) receive() (frame, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(p.r, header[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return frame{}, io.EOF
		}
		return frame{}, fmt.Errorf("read frame header: %w", err)
	}
	f := frame{kind: frameKind(header[0]), id: binary.BigEndian.Uint32(header[1:])}
	size := binary.BigEndian.Uint32(header[5:])
	if f.kind == 0 || f.kind >= frameKinds {
		return frame{}, fmt.Errorf("%w: kind %d", errFrame, f.kind)
	}
	if size > maxFrame {
		return frame{}, fmt.Errorf("%w: %d bytes, at most %d", errFrame, size, maxFrame)
	}
	f.payload = make([]byte, size)
	if _, err := io.ReadFull(p.r, f.payload); err != nil {
		return frame{}, fmt.Errorf("read frame of %d bytes: %w", size, err)
	}
	return f, nil
}

func (f frame) decode(v any) error {
	if err := json.Unmarshal(f.payload, v); err != nil {
		return fmt.Errorf("decode frame of kind %d: %w", f.kind, err)
	}
	return nil
}
