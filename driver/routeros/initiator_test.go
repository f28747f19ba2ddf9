package routeros

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"srvlab.io/rds-csi/safety"
)

// initiator is the admin queue of an NVMe/TCP host in user space: enough to find out whom an export lets in. It needs
// no kernel module, so whoever owns an array can run the conformance suite from a laptop.
// References: NVMe/TCP Transport Specification 1.0 (TCP), NVMe over Fabrics part of NVMe Base Specification 2.0 (Base).
type initiator struct {
	conn net.Conn
	next uint16 // command identifier
}

const (
	pduICReq       = 0x00 // TCP, 3.6.2.2
	pduICResp      = 0x01 // TCP, 3.6.2.3
	pduCapsuleCmd  = 0x04 // TCP, 3.6.2.6
	pduCapsuleResp = 0x05 // TCP, 3.6.2.7
	pduC2HData     = 0x07 // TCP, 3.6.2.10

	opFabrics     = 0x7f // Base, 6
	opIdentify    = 0x06 // Base, 5.17
	fabricsSet    = 0x00 // Property Set: Base, 6.6
	fabricsGet    = 0x04 // Property Get: Base, 6.5
	fabricsConn   = 0x01 // Connect: Base, 6.3
	useSGL        = 0x40 // PSDT of every Fabrics command: Base, 3.3.3.1
	sglInCapsule  = 0x01 // Data Block descriptor, offset subtype: data follows the command
	sglTransport  = 0x5a // Transport SGL Data Block: data comes in C2HData
	propertyCC    = 0x14
	propertyCSTS  = 0x1c
	enable        = 0x00460001 // CC: EN, 64-byte SQEs, 16-byte CQEs
	statusHost    = 0x184      // Connect Invalid Host: Base, 6.3, figure "Connect Response"
	statusInvalid = 0x182      // Connect Invalid Parameters, which is also what an unknown subsystem gets
)

// statusError is a command that the target refused, with status code type and code: 0x184.
type statusError uint16

func (s statusError) Error() string {
	switch s {
	case statusHost:
		return "refused: this host is not allowed (0x184)"
	case statusInvalid:
		return "refused: no such subsystem (0x182)"
	default:
		return fmt.Sprintf("refused: status %#03x", uint16(s))
	}
}

// connect makes an admin queue to a subsystem as a host. A statusError is the target's refusal; any other error is the
// network's, and tells nothing about the export.
func connect(ctx context.Context, portal netip.AddrPort, nqn, host safety.NQN) (*initiator, error) {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", portal.String())
	if err != nil {
		return nil, err
	}
	i := &initiator{conn: conn}
	if err := i.start(nqn, host); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return i, nil
}

func (i *initiator) start(nqn, host safety.NQN) error {
	hello := make([]byte, 120) // PFV 0, no padding, no digests, one R2T
	if err := i.send(pduICReq, hello, nil); err != nil {
		return err
	}
	switch kind, _, _, err := i.receive(); {
	case err != nil:
		return fmt.Errorf("answer to ICReq: %w", err)
	case kind != pduICResp:
		return fmt.Errorf("answer to ICReq: PDU %#02x", kind)
	}
	var data [1024]byte // Connect data: Base, 6.3
	copy(data[:16], hostID(host))
	binary.LittleEndian.PutUint16(data[16:], 0xffff) // any controller
	copy(data[256:512], nqn)
	copy(data[512:768], host)
	var sqe [64]byte
	sqe[4] = fabricsConn
	binary.LittleEndian.PutUint16(sqe[44:], 31)      // SQSIZE, counted from 0
	binary.LittleEndian.PutUint32(sqe[48:], 120_000) // KATO in ms: nobody here sends keep-alives
	_, _, err := i.command(opFabrics, sqe, data[:])
	return err
}

// hostID is the host identifier that goes with a host NQN: the UUID in it, as Linux does.
func hostID(host safety.NQN) []byte {
	_, text, _ := strings.Cut(string(host), ":uuid:")
	u, err := safety.ParseUUID(text)
	if err != nil {
		return make([]byte, 16)
	}
	return u[:]
}

// alive tells whether the controller still answers.
func (i *initiator) alive() bool {
	_, err := i.status()
	return err == nil
}

func (i *initiator) status() (uint32, error) {
	var sqe [64]byte
	sqe[4] = fabricsGet
	binary.LittleEndian.PutUint32(sqe[44:], propertyCSTS)
	result, _, err := i.command(opFabrics, sqe, nil)
	return result, err
}

// identity is what a host sees of the target: Identify Controller, Base, 5.17.2.1.
type identity struct {
	model, serial, firmware string
	namespaces              uint32
	maxCommands             uint16
}

// identify enables the controller, because Identify is no Fabrics command, and asks who it is.
func (i *initiator) identify(ctx context.Context) (identity, error) {
	var sqe [64]byte
	sqe[4] = fabricsSet
	binary.LittleEndian.PutUint32(sqe[44:], propertyCC)
	binary.LittleEndian.PutUint64(sqe[48:], enable)
	if _, _, err := i.command(opFabrics, sqe, nil); err != nil {
		return identity{}, err
	}
	for range 50 {
		if status, err := i.status(); err != nil {
			return identity{}, err
		} else if status&1 != 0 { // CSTS.RDY
			break
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return identity{}, err
		}
	}
	sqe = [64]byte{40: 1} // CNS 1: the controller
	_, data, err := i.command(opIdentify, sqe, nil)
	if err != nil {
		return identity{}, fmt.Errorf("identify: %w", err)
	}
	if len(data) < 520 {
		return identity{}, fmt.Errorf("identify gave %d bytes", len(data))
	}
	text := func(from, to int) string { return strings.TrimRight(string(data[from:to]), " \x00") }
	return identity{
		serial: text(4, 24), model: text(24, 64), firmware: text(64, 72),
		maxCommands: binary.LittleEndian.Uint16(data[514:]), namespaces: binary.LittleEndian.Uint32(data[516:]),
	}, nil
}

// command sends one command and gives the first word of its result and its data.
func (i *initiator) command(opcode byte, sqe [64]byte, data []byte) (result uint32, in []byte, err error) {
	i.next++
	sqe[0], sqe[1] = opcode, useSGL
	binary.LittleEndian.PutUint16(sqe[2:], i.next)
	switch {
	case data != nil:
		binary.LittleEndian.PutUint32(sqe[32:], uint32(len(data)))
		sqe[39] = sglInCapsule
	case opcode != opFabrics:
		binary.LittleEndian.PutUint32(sqe[32:], 4096)
		sqe[39] = sglTransport
	}
	if err := i.send(pduCapsuleCmd, sqe[:], data); err != nil {
		return 0, nil, err
	}
	for {
		kind, header, body, err := i.receive()
		switch {
		case err != nil:
			return 0, nil, err
		case kind == pduC2HData:
			in = append(in, body...)
			if header[1]&0x08 != 0 { // SUCCESS: no response capsule follows
				return 0, in, nil
			}
		case kind == pduCapsuleResp && len(header) >= 24:
			// Status field: Base, 3.3.3.2; bit 0 is the phase tag, bits 9 to 11 the type, above them the retry bits.
			if status := binary.LittleEndian.Uint16(header[22:]) >> 1 & 0x7ff; status != 0 {
				return 0, nil, statusError(status)
			}
			return binary.LittleEndian.Uint32(header[8:]), in, nil
		default:
			return 0, nil, fmt.Errorf("unexpected PDU %#02x", kind)
		}
	}
}

// send writes a PDU: common header (TCP, 3.6.1), the rest of the header, data.
func (i *initiator) send(kind byte, header, data []byte) error {
	pdu := make([]byte, 8, 8+len(header)+len(data))
	pdu[0], pdu[2] = kind, byte(8+len(header))
	if len(data) > 0 {
		pdu[3] = pdu[2] // PDO: the data starts behind the header
	}
	binary.LittleEndian.PutUint32(pdu[4:], uint32(8+len(header)+len(data)))
	if err := i.conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	_, err := i.conn.Write(append(append(pdu, header...), data...))
	return err
}

// receive reads a PDU and gives its type, its header and its data.
func (i *initiator) receive() (kind byte, header, data []byte, err error) {
	common := make([]byte, 8)
	if _, err := io.ReadFull(i.conn, common); err != nil {
		return 0, nil, nil, err
	}
	length, hlen, pdo := binary.LittleEndian.Uint32(common[4:]), int(common[2]), int(common[3])
	if hlen < 8 || int(length) < max(hlen, pdo) || length > 1<<20 {
		return 0, nil, nil, fmt.Errorf("PDU %#02x with a header of %d and a length of %d bytes", common[0], hlen, length)
	}
	pdu := append(common, make([]byte, length-8)...)
	if _, err := io.ReadFull(i.conn, pdu[8:]); err != nil {
		return 0, nil, nil, err
	}
	return pdu[0], pdu[:hlen], pdu[max(hlen, pdo):], nil
}

func (i *initiator) close() { i.conn.Close() }
